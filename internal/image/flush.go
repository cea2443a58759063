package image

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// flusher puts layers on disk before they are announced: syncfs writes all
// files, folders and attributes of a file system in one go. Layers that are
// finished while one call is under way share the next.
//
// The descriptor is opened before anything is written, so that the kernel
// (5.8) tells of every write that failed. It tells once, and does not say whose
// it was: no layer that was begun before is trusted then.
type flusher struct {
	dir  *os.File           // a second close closes no other's descriptor
	call func(fd int) error // unix.Syncfs

	mu       sync.Mutex // guards all below
	next     *flush     // waits for the one under way; nil: none does
	running  bool
	failures int
}

type flush struct {
	done chan struct{}
	err  error
}

func newFlusher(dir string) (*flusher, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the layers: %w", err)
	}
	return &flusher{dir: f, call: unix.Syncfs}, nil
}

func (f *flusher) close() { _ = f.dir.Close() } // read-only

// mark is to be taken before writing begins.
func (f *flusher) mark() (since int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures
}

// sync returns when all that was written before the call is on disk. It fails
// if anything written since the mark was lost.
func (f *flusher) sync(since int) error {
	mine := f.join()
	<-mine.done
	if mine.err != nil {
		return fmt.Errorf("write the layer to disk: %w", mine.err)
	}
	if f.mark() != since {
		return fmt.Errorf("write the layer to disk: %w", unix.EIO)
	}
	return nil
}

// join takes part in the call that begins next.
func (f *flusher) join() *flush {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = &flush{done: make(chan struct{})}
	}
	if !f.running {
		f.running = true
		go f.run()
	}
	return f.next
}

func (f *flusher) run() {
	for {
		f.mu.Lock()
		now := f.next
		f.next = nil
		f.running = now != nil
		f.mu.Unlock()
		if now == nil {
			return
		}
		if now.err = f.call(int(f.dir.Fd())); now.err != nil {
			f.mu.Lock()
			f.failures++
			f.mu.Unlock()
		}
		close(now.done)
	}
}
