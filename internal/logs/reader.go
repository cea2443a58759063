package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// Query selects records.
type Query struct {
	Stdout, Stderr bool
	Tail           int // records; negative: all; with Grep: of the selected ones
	Since, Until   time.Time
	Grep           *regexp.Regexp // lines without a match are left out; nil: none
}

// Damage is what could not be read of a log: someone has changed its files, or
// the disk has.
type Damage struct {
	Records int    // that are none
	Path    string // of the file of the first
	Offset  int64  // of the first in it, in bytes, uncompressed
	Why     error  // that a file could not be read to its end; nil: none
}

// String is "" without damage.
func (d *Damage) String() string {
	switch {
	case d.Why != nil:
		return fmt.Sprintf("the log %s could not be read beyond byte %d: %v; what else there is is shown", d.Path, d.Offset, d.Why)
	case d.Records > 0:
		return fmt.Sprintf("%d lines of the log are no records, the first at byte %d of %s: it was changed or cut by something else; the rest is shown", d.Records, d.Offset, d.Path)
	}
	return ""
}

func (d *Damage) add(path string, offset int64, why error) {
	if d.Records == 0 && d.Why == nil {
		d.Path, d.Offset, d.Why = path, offset, why
	}
	d.Records++
}

// ErrRotatedAway: the place to read from is in a file that rotation has removed.
var ErrRotatedAway = errors.New("the log was rotated away before it was read; raise max-size or max-file")

func inode(f *os.File) (uint64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Sys().(*syscall.Stat_t).Ino, nil
}

// wants says whether e passes; done that nothing later will.
func (q *Query) wants(e *Entry) (ok, done bool) {
	if !q.Until.IsZero() && e.Time.After(q.Until) {
		return false, true
	}
	if !q.Since.IsZero() && e.Time.Before(q.Since) {
		return false, false
	}
	return e.Stream == "stdout" && q.Stdout || e.Stream == "stderr" && q.Stderr, false
}

// file is one opened log file; size is what to read of it, uncompressed
// (negative: all).
type file struct {
	f    *os.File
	gzip bool
	size int64
	live bool // a writer appends to it: its end may be half a record

	parts []member // of a compressed one, once they are known
}

func openFile(path string) (*file, error) {
	f, err := os.Open(path)
	if err == nil {
		return &file{f: f, size: -1}, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if f, err = os.Open(path + ".gz"); err == nil {
		return &file{f: f, gzip: true, size: -1}, nil
	}
	return nil, err
}

// reader starts at off.
func (f *file) reader(off int64) (io.Reader, error) {
	if !f.gzip {
		size := f.size
		if size < 0 {
			size = 1 << 62
		}
		return io.NewSectionReader(f.f, off, max(size-off, 0)), nil
	}
	return f.unpack(off)
}

// Snapshot is the log's files as they were at one moment.
type Snapshot struct {
	path  string
	files []*file
	End   Pos // the end of what it holds; only with a writer

	// Damaged is what Read has met.
	Damaged Damage
}

// OpenSnapshot opens the log's files. w is the log's writer when it is in
// this process, else nil.
func OpenSnapshot(cfg Config, w *Writer) (*Snapshot, error) {
	files, end, err := openAll(cfg, w)
	s := &Snapshot{path: cfg.Path, files: files, End: end}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the files.
func (s *Snapshot) Close() {
	for _, f := range s.files {
		f.f.Close()
	}
}

// Read calls fn for the selected records, oldest first. An entry's Line is good
// until fn returns.
func (s *Snapshot) Read(ctx context.Context, q Query, fn func(*Entry) error) error {
	if q.Tail == 0 {
		return nil
	}
	if q.Grep != nil {
		return s.readMatching(ctx, q, fn)
	}
	first, off := 0, int64(0)
	if q.Tail >= 0 {
		var err error
		if first, off, err = seekTail(s.files, q.Tail); err != nil {
			return fmt.Errorf("read the log %s: %w", s.path, err)
		}
	}
	if !q.Since.IsZero() {
		if i := s.fileAt(q.Since); i > first {
			first, off = i, 0
		}
	}
	for i := first; i < len(s.files); i++ {
		start := int64(0)
		if i == first {
			start = off
		}
		if !q.Since.IsZero() {
			start = max(start, seekTime(s.files[i], q.Since))
		}
		done, err := s.readOne(ctx, s.files[i], start, &q, fn)
		if err != nil || done {
			return err
		}
	}
	return nil
}

// fileAt is the last file whose first record is before since.
func (s *Snapshot) fileAt(since time.Time) int {
	for i := len(s.files) - 1; i > 0; i-- {
		if first, ok := s.files[i].firstTime(); ok && first.Before(since) {
			return i
		}
	}
	return 0
}

func (s *Snapshot) readOne(ctx context.Context, f *file, start int64, q *Query, fn func(*Entry) error) (done bool, err error) {
	r, err := f.reader(start)
	if err != nil {
		s.Damaged.add(f.f.Name(), start, err)
		return false, nil
	}
	bad := func(off int64, why error) {
		if why != nil || !f.live {
			s.Damaged.add(f.f.Name(), start+off, why)
		}
	}
	_, err = scan(ctx, r, bad, func(e *Entry) error {
		ok, end := q.wants(e)
		if end {
			done = true
			return io.EOF
		}
		if !ok {
			return nil
		}
		return fn(e)
	})
	if done && errors.Is(err, io.EOF) {
		err = nil
	}
	return done, err
}

// scan decodes records, whose Line is good until fn returns, until the end and returns how many bytes whole lines
// took. What is no record is skipped, whatever its length, and told to bad with its
// place, and with a reason where nothing more can be read.
func scan(ctx context.Context, r io.Reader, bad func(int64, error), fn func(*Entry) error) (int64, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var took int64
	var long []byte
	var dec decoder
	skipping, n := false, int64(0)
	for {
		part, err := br.ReadSlice('\n')
		n += int64(len(part))
		if err == bufio.ErrBufferFull {
			if len(long)+len(part) > maxRecord {
				skipping, long = true, nil
			}
			if !skipping {
				long = append(long, part...)
			}
			continue
		}
		if err != nil { // a torn last line, or a broken archive, ends it
			if err != io.EOF {
				bad(took, err)
			} else if n > 0 {
				bad(took, nil)
			}
			return took, nil
		}
		line, ok, e := part, false, Entry{}
		if len(long) > 0 {
			line = append(long, part...)
		}
		if !skipping {
			e, ok = dec.record(line)
		}
		if !ok {
			bad(took, nil)
		}
		took += n
		n = 0
		if ok {
			if err := fn(&e); err != nil {
				return took, err
			}
		}
		skipping, long = false, nil
		if ctx.Err() != nil {
			return took, ctx.Err()
		}
	}
}

// openAll opens the files, oldest first.
func openAll(cfg Config, w *Writer) ([]*file, Pos, error) {
	var end Pos
	if w != nil {
		w.mu.Lock() // no rotation meanwhile
		defer w.mu.Unlock()
		end = w.pos
	}
	var files []*file
	for i := max(cfg.MaxFiles, 1) - 1; i >= 0; i-- {
		path := cfg.Path
		if i > 0 {
			path += "." + strconv.Itoa(i)
		}
		f, err := openFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, end, fmt.Errorf("read the container's log: %w", err)
		}
		if i == 0 && w != nil {
			f.size, f.live = end.Off, true
		}
		files = append(files, f)
	}
	return files, end, nil
}

// seekTail finds where the last n records begin.
func seekTail(files []*file, n int) (first int, off int64, err error) {
	for i := len(files) - 1; i >= 0; i-- {
		var found bool
		if files[i].gzip {
			off, n, found = tailPacked(files[i], n)
		} else if off, n, found, err = tailPlain(files[i], n); err != nil {
			return 0, 0, err
		}
		if found {
			return i, off, nil
		}
	}
	return 0, 0, nil
}

// tailPlain reads blocks from the end; left is what n lacks.
func tailPlain(f *file, n int) (off int64, left int, found bool, err error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, n, false, err
	}
	end := st.Size()
	if f.size >= 0 {
		end = min(end, f.size)
	}
	buf := make([]byte, 32<<10)
	last := true // the newline that ends the last record does not begin one
	for end > 0 {
		k := min(int64(len(buf)), end)
		if _, err := f.f.ReadAt(buf[:k], end-k); err != nil && err != io.EOF {
			return 0, n, false, err
		}
		b := buf[:k]
		for i := bytes.LastIndexByte(b, '\n'); i >= 0; i = bytes.LastIndexByte(b[:i], '\n') {
			if last {
				last = false
				continue
			}
			if n--; n == 0 {
				return end - k + int64(i) + 1, 0, true, nil
			}
		}
		end -= k
	}
	if !last {
		n--
	}
	return 0, n, n <= 0, nil
}

// seekTime bisects for a place not after the first record of since or later.
func seekTime(f *file, since time.Time) int64 {
	if f.gzip {
		return seekPacked(f, since)
	}
	st, err := f.f.Stat()
	if err != nil {
		return 0
	}
	lo, hi := int64(0), st.Size()
	if f.size >= 0 {
		hi = min(hi, f.size)
	}
	for hi-lo > 64<<10 {
		mid := lo + (hi-lo)/2
		br := bufio.NewReaderSize(io.NewSectionReader(f.f, mid, min(hi-mid, maxRecord)), 32<<10)
		head, err := skipLine(br)
		if err != nil {
			return lo
		}
		line, err := br.ReadSlice('\n')
		e, ok := parseRecord(line)
		if err != nil || !ok {
			return lo
		}
		if e.Time.Before(since) {
			lo = mid + head
		} else {
			hi = mid
		}
	}
	return lo
}

func skipLine(br *bufio.Reader) (int64, error) {
	var n int64
	for {
		part, err := br.ReadSlice('\n')
		n += int64(len(part))
		if err != bufio.ErrBufferFull {
			return n, err
		}
	}
}

// ReadFrom calls fn for all records from pos to the present end and returns
// the end, across rotations. An entry's Line is good until fn returns. An error is fn's, ctx's or ErrRotatedAway.
func (w *Writer) ReadFrom(ctx context.Context, pos Pos, fn func(*Entry) error) (Pos, error) {
	for {
		f, end, err := w.openGen(pos.Gen)
		if err != nil {
			return pos, err
		}
		if f == nil {
			return pos, ErrRotatedAway
		}
		r, err := f.reader(pos.Off)
		if err == nil {
			var n int64
			n, err = scan(ctx, r, func(int64, error) {}, fn)
			pos.Off += n
		}
		f.f.Close()
		if err != nil {
			return pos, err
		}
		if pos.Gen >= end.Gen {
			return pos, nil
		}
		pos = Pos{Gen: pos.Gen + 1}
	}
}

// openGen opens the file of a generation, under the name it has now.
func (w *Writer) openGen(gen uint64) (*file, Pos, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gen > w.pos.Gen {
		return nil, w.pos, fmt.Errorf("log generation %d is not written yet", gen)
	}
	path, back := w.cfg.Path, w.pos.Gen-gen
	if back >= uint64(w.cfg.MaxFiles) {
		return nil, w.pos, nil
	}
	if back > 0 {
		path += "." + strconv.FormatUint(back, 10)
	}
	f, err := openFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, w.pos, nil
	}
	if err == nil && back == 0 {
		f.size = w.pos.Off
	}
	return f, w.pos, err
}

// Follow reads from pos and waits for more until the writer closes or ctx ends;
// idle is called before it waits. It returns the place after the last record that fn was given, with which
// another Follow goes on; the record for which fn failed counts as given.
func (w *Writer) Follow(ctx context.Context, pos Pos, q Query, fn func(*Entry) error, idle func() error) (Pos, error) {
	g := newGrep(q.Grep)
	for {
		_, more, closed := w.More()
		done := false
		var err error
		pos, err = w.ReadFrom(ctx, pos, func(e *Entry) error {
			ok, end := q.wants(e)
			if end {
				done = true
				return io.EOF
			}
			if !ok {
				return nil
			}
			return g.pass(e, fn)
		})
		if err == nil || done {
			err = errors.Join(err, idle())
		}
		if done && (err == nil || errors.Is(err, io.EOF)) {
			return pos, nil
		}
		if err != nil || closed {
			return pos, err
		}
		var until <-chan time.Time
		if !q.Until.IsZero() {
			t := time.NewTimer(time.Until(q.Until))
			defer t.Stop()
			until = t.C
		}
		select {
		case <-more:
		case <-until:
			return pos, nil
		case <-ctx.Done():
			return pos, ctx.Err()
		}
	}
}
