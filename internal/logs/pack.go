package logs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// packAfter is for how long there is no rotation before a rotated file is
	// compressed: programs that follow the log by its file read its end, and a burst is
	// not slowed down by work on files that it soon deletes.
	packAfter = 2 * time.Second
	// packAtLast is how old a rotated file is that is compressed all the same.
	packAtLast = 30 * time.Second
)

// repairPacked removes what a compression that was cut off left.
func (w *Writer) repairPacked() error {
	names := []string{w.packed()}
	for i := 1; i < w.cfg.MaxFiles; i++ {
		if exists(w.rotated(i)) {
			names = append(names, w.rotated(i)+".gz")
		}
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("repair the container's log: %w", err)
		}
	}
	return nil
}

// packed is the name of a file that is being compressed.
func (w *Writer) packed() string { return w.cfg.Path + ".pack" }

func (w *Writer) startPacking() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.startPackingLocked()
}

func (w *Writer) startPackingLocked() {
	if !w.cfg.Compress || w.packs || w.closed || w.nextToPack() == "" {
		return
	}
	w.packs = true
	w.packing.Go(w.pack)
}

// nextToPack is the oldest rotated file that is not compressed; "": none.
func (w *Writer) nextToPack() string {
	for i := w.cfg.MaxFiles - 1; i >= 1; i-- {
		if exists(w.rotated(i)) {
			return w.rotated(i)
		}
	}
	return ""
}

// pack compresses rotated files until there is none. What cannot be compressed
// stays as it is, which readers understand, until the next rotation.
func (w *Writer) pack() {
	w.mu.Lock()
	rotations := w.pos.Gen
	w.mu.Unlock()
	for {
		select {
		case <-time.After(packAfter):
		case <-w.stop:
		}
		w.mu.Lock()
		name := w.nextToPack()
		if w.closed || name == "" {
			w.packs = false
			w.mu.Unlock()
			return
		}
		if w.pos.Gen != rotations && !older(name, packAtLast) {
			rotations = w.pos.Gen
			w.mu.Unlock()
			continue
		}
		f, err := os.Open(name)
		w.mu.Unlock()
		if err == nil {
			err = errors.Join(w.packFile(f), f.Close())
		}
		if err != nil {
			w.mu.Lock()
			w.packs = false
			w.mu.Unlock()
			return
		}
	}
}

// older says whether the last write to a file was so long ago.
func older(name string, age time.Duration) bool {
	st, err := os.Lstat(name)
	return err == nil && time.Since(st.ModTime()) > age
}

func (w *Writer) packFile(f *os.File) (err error) {
	tmp, err := os.OpenFile(w.packed(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // nothing once it has its name
	if err = pack(tmp, &stoppable{f, w.stop}); err == nil {
		err = tmp.Sync() // what it was made of is deleted
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < w.cfg.MaxFiles; i++ { // it may have moved, or be gone
		name := w.rotated(i)
		if now, err := os.Lstat(name); err == nil && os.SameFile(st, now) {
			if err := os.Rename(tmp.Name(), name+".gz"); err != nil {
				return err
			}
			return os.Remove(name)
		}
	}
	return nil
}

// stoppable ends with an error once stop is closed.
type stoppable struct {
	r    io.Reader
	stop chan struct{}
}

func (s *stoppable) Read(b []byte) (int, error) {
	select {
	case <-s.stop:
		return 0, os.ErrClosed
	default:
		return s.r.Read(b)
	}
}
