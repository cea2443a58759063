package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
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
	cfg   Config
	attrs []byte
	buf   []byte // Append's own

	mu     sync.Mutex // not held across writes; held across renames
	f      *os.File
	pos    Pos
	closed bool
	more   chan struct{} // closed and replaced by each append

	packing sync.WaitGroup // the compression of the file rotated last
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
	w := &Writer{cfg: cfg, attrs: encodeAttrs(cfg.Attrs), more: make(chan struct{}), pos: Pos{Gen: gen}}
	if err := w.openCurrent(); err != nil {
		return nil, err
	}
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

// MaybeRotate starts a new file when the current one is full. It is apart
// from Append so that the place of the next record is known beforehand.
func (w *Writer) MaybeRotate() error {
	if w.cfg.MaxSize <= 0 || w.End().Off < w.cfg.MaxSize {
		return nil
	}
	w.packing.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return os.ErrClosed
	}
	if w.cfg.MaxFiles == 1 {
		if err := os.Remove(w.cfg.Path); err != nil {
			return fmt.Errorf("rotate the container's log: %w", err)
		}
	} else if err := w.shiftLocked(); err != nil {
		return err
	}
	old, gen := w.f, w.pos.Gen
	if err := w.openCurrent(); err != nil {
		return err
	}
	w.pos.Gen = gen + 1
	if w.cfg.Compress && w.cfg.MaxFiles > 1 {
		w.packing.Go(func() { pack(w.cfg.Path + ".1") })
	}
	return old.Close()
}

func (w *Writer) shiftLocked() error {
	name := func(i int, ext string) string { return w.cfg.Path + "." + strconv.Itoa(i) + ext }
	for _, ext := range []string{"", ".gz"} {
		if err := os.Remove(name(w.cfg.MaxFiles-1, ext)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate the container's log: %w", err)
		}
		for i := w.cfg.MaxFiles - 2; i >= 1; i-- {
			if err := os.Rename(name(i, ext), name(i+1, ext)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("rotate the container's log: %w", err)
			}
		}
	}
	if err := os.Rename(w.cfg.Path, name(1, "")); err != nil {
		return fmt.Errorf("rotate the container's log: %w", err)
	}
	return nil
}

// pack compresses a rotated file; when that fails the file stays as it is,
// which readers understand.
func pack(path string) {
	in, err := os.Open(path)
	if err != nil {
		return
	}
	defer in.Close()
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".pack-*")
	if err != nil {
		return
	}
	defer os.Remove(tmp.Name())
	zw := gzip.NewWriter(tmp)
	_, err = io.Copy(zw, in)
	err = errors.Join(err, zw.Close(), tmp.Chmod(0o640), tmp.Close())
	if err != nil || os.Rename(tmp.Name(), path+".gz") != nil {
		return
	}
	if err := os.Remove(path); err != nil {
		return
	}
}

// Append writes entries with one write. On error (a full disk) what was
// partly written is cut again.
func (w *Writer) Append(entries []Entry) error {
	w.buf = w.buf[:0]
	for i := range entries {
		w.buf = appendRecord(w.buf, &entries[i], w.attrs)
	}
	w.mu.Lock()
	f, pos, closed := w.f, w.pos, w.closed
	w.mu.Unlock()
	if closed {
		return os.ErrClosed
	}
	if _, err := f.Write(w.buf); err != nil {
		return errors.Join(fmt.Errorf("write the container's log: %w", err), f.Truncate(pos.Off))
	}
	w.mu.Lock()
	w.pos.Off += int64(len(w.buf))
	close(w.more)
	w.more = make(chan struct{})
	w.mu.Unlock()
	if cap(w.buf) > 64<<10 {
		w.buf = nil
	}
	return nil
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
	close(w.more)
	err := w.f.Close()
	w.mu.Unlock()
	w.packing.Wait()
	return err
}
