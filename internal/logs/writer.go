package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config of a log.
type Config struct {
	Driver   string // "json-file" or "local"
	Path     string
	MaxSize  int64 // bytes; 0: unlimited
	MaxFiles int
	Compress bool
	Attrs    map[string]string
}

// maxBuffer bounds, in bytes, what an idle writer keeps for the next Append.
const maxBuffer = 512 << 10

// Pos is a place between two records, valid within one process.
type Pos struct {
	Gen uint64 // of the file
	Off int64  // bytes into it, uncompressed
}

// Less orders places.
func (p Pos) Less(q Pos) bool { return p.Gen < q.Gen || p.Gen == q.Gen && p.Off < q.Off }

// Writer appends to one container's log. Append is called by one goroutine at
// a time; the other methods by any.
type Writer struct {
	cfg Config
	enc encoder // Append's own
	buf []byte  // Append's own

	mu     sync.Mutex // not held across writes; held across renames
	f      *os.File
	pos    Pos
	closed bool
	more   chan struct{} // closed and replaced by each append

	last    time.Time // of Stamp; Append's own
	packing sync.WaitGroup
	packs   bool          // a goroutine compresses; guarded by mu
	stop    chan struct{} // closed by Close
}

// Open opens or makes the log and cuts a torn last record. gen numbers the
// current file.
func Open(cfg Config, gen uint64) (*Writer, error) {
	if cfg.Driver != "json-file" && cfg.Driver != "local" {
		return nil, fmt.Errorf("log driver %q is not written by the keeper: use json-file, local or none", cfg.Driver)
	}
	if cfg.Driver == "local" { // in a folder of its own
		if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
			return nil, fmt.Errorf("the folder of the container's log: %w", err)
		}
	}
	if cfg.MaxFiles < 1 {
		cfg.MaxFiles = 1
	}
	w := &Writer{cfg: cfg, enc: encoder{attrs: encodeAttrs(cfg.Attrs)}, more: make(chan struct{}), stop: make(chan struct{}), pos: Pos{Gen: gen}}
	if err := w.repairPacked(); err != nil {
		return nil, err
	}
	if err := w.openCurrent(); err != nil {
		return nil, err
	}
	w.startPacking()
	return w, nil
}

func (w *Writer) openCurrent() error {
	f, err := os.OpenFile(w.cfg.Path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open the container's log: %w", err)
	}
	size, err := cutTorn(f)
	if err != nil {
		f.Close()
		return fmt.Errorf("repair the end of the container's log %s: %w", w.cfg.Path, err)
	}
	w.f, w.pos.Off = f, size
	return nil
}

// cutTorn removes what follows the last newline and returns the file's size.
func cutTorn(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for end := st.Size(); end > 0; {
		n := min(int64(len(buf)), end)
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			size := end - n + int64(i) + 1
			if size == st.Size() {
				return size, nil
			}
			return size, f.Truncate(size)
		}
		end -= n
	}
	if st.Size() == 0 {
		return 0, nil
	}
	return 0, f.Truncate(0)
}

// Rotate starts a new file, and deletes the oldest where there are MaxFiles.
func (w *Writer) Rotate() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return os.ErrClosed
	}
	old, gen := w.f, w.pos.Gen
	if full := w.cfg.MaxSize > 0 && w.pos.Off > 0 && !w.meddled(w.f, w.pos.Off); w.cfg.MaxFiles == 1 && full {
		if err := os.Remove(w.cfg.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate the container's log: %w", err)
		}
	} else if w.cfg.MaxFiles > 1 {
		if err := w.shiftLocked(); err != nil {
			return err
		}
	}
	if err := w.openCurrent(); err != nil {
		if w.cfg.MaxFiles > 1 { // so that the next try finds what this one found
			err = errors.Join(err, os.Rename(w.rotated(1), w.cfg.Path))
		}
		return err
	}
	w.pos.Gen = gen + 1
	w.startPackingLocked()
	return old.Close()
}

// rotated is the name of the file i rotations back.
func (w *Writer) rotated(i int) string { return w.cfg.Path + "." + strconv.Itoa(i) }

// shiftLocked makes room for the current file at 1. A shift that was cut off left
// a gap: only what is before the first gap moves, so that repeating it loses nothing.
func (w *Writer) shiftLocked() error {
	gap := 1
	for gap < w.cfg.MaxFiles-1 && (exists(w.rotated(gap)) || exists(w.rotated(gap)+".gz")) {
		gap++
	}
	for _, ext := range []string{".gz", ""} {
		if err := os.Remove(w.rotated(gap) + ext); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate the container's log: %w", err)
		}
	}
	for i := gap - 1; i >= 0; i-- {
		for _, ext := range []string{".gz", ""} {
			from := w.rotated(i) + ext
			if i == 0 {
				from = w.cfg.Path
				if ext != "" {
					continue
				}
			}
			if err := os.Rename(from, w.rotated(i+1)+ext); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("rotate the container's log: %w", err)
			}
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Stamp is now, and later than every stamp before: readers find a place in the
// log by its time. A clock that is set back is followed.
func (w *Writer) Stamp() time.Time {
	now := time.Now().Round(0)
	if d := w.last.Sub(now); d >= 0 && d < time.Second {
		now = w.last.Add(1)
	}
	w.last = now
	return now
}

// Append logs the lines that begin text, as far as they fit into the current file,
// with one write, and returns how many bytes of text they are; full calls for Rotate
// and another try. What does not end in a newline is not logged unless it is longer
// than a record may be, or final. at, which is a Stamp, is the first record's time,
// and each other's is a nanosecond later: they came together. With over, the file's
// size is no matter. On error (a full disk) what was partly written is cut again.
func (w *Writer) Append(stream string, at time.Time, text []byte, final, over bool) (n int, full bool, err error) {
	w.mu.Lock()
	f, pos, closed := w.f, w.pos, w.closed
	w.mu.Unlock()
	if closed {
		return 0, false, os.ErrClosed
	}
	line, rest, ok := split(text, final)
	if !ok {
		return 0, false, nil
	}
	if !over && w.meddled(f, pos.Off) {
		return 0, true, nil
	}
	w.buf = w.buf[:0]
	for ; ok; line, rest, ok = split(rest, final) {
		before := len(w.buf)
		w.buf = w.enc.record(w.buf, stream, at, line)
		if size := pos.Off + int64(before); !over && w.cfg.MaxSize > 0 && size > 0 && pos.Off+int64(len(w.buf)) > w.cfg.MaxSize {
			w.buf, full = w.buf[:before], true
			break
		}
		n, w.last, at = n+len(line), at, at.Add(1)
	}
	if n == 0 {
		return 0, full, nil
	}
	if _, err := f.Write(w.buf); err != nil {
		return 0, false, errors.Join(fmt.Errorf("write the container's log: %w", err), f.Truncate(pos.Off))
	}
	w.mu.Lock()
	w.pos.Off += int64(len(w.buf))
	close(w.more)
	w.more = make(chan struct{})
	w.mu.Unlock()
	if cap(w.buf) > maxBuffer {
		w.buf = nil
	}
	return n, full, nil
}

// meddled says whether someone truncated or deleted the current file by hand:
// places in it are not true any more, and a new file is due.
func (w *Writer) meddled(f *os.File, size int64) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return st.Size != size || st.Nlink == 0
}

// Undo cuts the current file to off: what followed is about to be written again.
func (w *Writer) Undo(off int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if off >= w.pos.Off {
		return nil
	}
	if err := w.f.Truncate(off); err != nil {
		return fmt.Errorf("repair the container's log: %w", err)
	}
	w.pos.Off = off
	return nil
}

// Inode identifies the current file.
func (w *Writer) Inode() (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return inode(w.f)
}

// End is the place after the last record.
func (w *Writer) End() Pos {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pos
}

// More returns the place after the last record, and a channel closed once
// there is more; closed says that there never will be.
func (w *Writer) More() (end Pos, more <-chan struct{}, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pos, w.more, w.closed
}

// Close ends the log; readers see its end.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.stop)
	close(w.more)
	err := w.f.Close()
	w.mu.Unlock()
	w.packing.Wait()
	return err
}
