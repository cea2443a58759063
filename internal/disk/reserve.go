package disk

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// ReserveName is the file in the data root that holds space back.
const ReserveName = "reserve"

// Reserve is space that is held back by a file, so that clean-up works on a
// full disk: a database needs some to forget something. Who cleans up takes it;
// it is made again when there is room.
type Reserve struct {
	path string
	size int64 // bytes wanted
	log  *slog.Logger

	mu   sync.Mutex // guards what follows, and the file
	held bool
}

// IsFull says whether a disk, or its owner's share of it, is full.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// OpenReserve takes the reserve of a data root, and makes it if there is room.
// size is the most that it takes; on a small disk it is one per cent of that. 0
// removes it.
func OpenReserve(root string, size int64, log *slog.Logger) *Reserve {
	r := &Reserve{path: filepath.Join(root, ReserveName), size: size, log: log}
	if _, total, err := space(root); err == nil {
		r.size = min(size, total/100)
	}
	if r.size <= 0 {
		if err := os.Remove(r.path); err != nil && !os.IsNotExist(err) {
			log.Warn("the reserve of disk space cannot be removed", "error", err)
		}
		return r
	}
	if st, err := os.Stat(r.path); err == nil && st.Size() == r.size && Blocks(r.path) >= r.size {
		r.held = true
		return r
	}
	r.Make()
	return r
}

// space is what is free for others than root, and the size of the file system.
func space(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("the file system of %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// Make takes the space again if twice as much is free.
func (r *Reserve) Make() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held || r.size <= 0 {
		return
	}
	free, _, err := space(filepath.Dir(r.path))
	if err != nil || free < 2*r.size {
		return
	}
	if err := r.makeLocked(); err != nil {
		_ = os.Remove(r.path) // whatever there is of it holds nothing back
		if !IsFull(err) {
			r.log.Warn("no disk space is held back for clean-up", "error", err)
			r.size = 0
		}
		return
	}
	r.held = true
}

func (r *Reserve) makeLocked() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), 0, 0, r.size)
}

// Release gives the space up, once, and says whether there was any.
func (r *Reserve) Release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held {
		return false
	}
	if err := os.Remove(r.path); err != nil {
		r.log.Error("the reserve of disk space cannot be given up", "error", err)
		return false
	}
	r.held = false
	// Some file systems give space back only when the removal is on disk.
	if d, err := os.Open(filepath.Dir(r.path)); err == nil {
		_ = d.Sync() // then it takes longer
		_ = d.Close()
	}
	r.log.Warn("the disk is full: the space held back for clean-up is used", "size", units.HumanSize(float64(r.size)))
	return true
}

// Begin is for the start of the engine, which writes a little everywhere: with
// less than half of the reserve free, the reserve is given up.
func (r *Reserve) Begin() {
	if free, _, err := space(filepath.Dir(r.path)); err == nil && free < r.size/2 {
		r.Release()
	}
}
