package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/sys/mount"

	"hezi/internal/disk/loop"
)

// How the disk space of a volume is limited.
const (
	byProject = "project" // the file system counts what is in its folder
	byFile    = "file"    // its content is a file system in a file of that size
)

// smallestDisk is what a file system with a journal needs, in bytes.
const smallestDisk = 8 << 20

// Limiter bounds folders by what their file system has for it.
type Limiter interface {
	// Limit bounds an empty folder. Error: NotImplemented where that cannot be done.
	Limit(bytes uint64, dir string) error
	// Remove removes a tree with what limits its folder.
	Remove(tree, dir string) error
}

// SetLimiter wires it; without one, files limit volumes.
func (s *Store) SetLimiter(l Limiter) { s.limiter = l }

// size is the limit that options ask for, in bytes; 0: none.
func size(o map[string]string) (uint64, error) {
	text, ok := o["size"]
	if !ok {
		return 0, nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > 0 && n < smallestDisk {
		return 0, fmt.Errorf("invalid size: %q: the least is %s", text, units.BytesSize(smallestDisk))
	}
	return uint64(n), nil
}

// limit bounds a new volume whose folder is data.
func (s *Store) limit(r *record, data string) error {
	n, err := size(r.Options)
	if err != nil || n == 0 {
		return err
	}
	if s.limiter != nil {
		err := s.limiter.Limit(n, data)
		if err == nil {
			r.Limit = byProject
		}
		if !errdefs.IsNotImplemented(err) {
			return err
		}
	}
	r.Limit = byFile
	return makeDisk(n, data)
}

// makeDisk makes a disk of n bytes in a file beside a folder, empty.
func makeDisk(n uint64, data string) error {
	err := loop.Make(context.Background(), int64(n), filepath.Dir(data), data)
	if errdefs.IsNotImplemented(err) {
		return errdefs.ErrNotImplemented.WithMessage("quota size requested but no quota support: the file system of the data root does not enforce project quotas (xfs with 'pquota', ext4 with 'prjquota'), and " + err.Error())
	}
	if err != nil {
		return err
	}
	return mount.Unmount(data)
}

// mountDisk mounts the disk of a volume.
func mountDisk(data string) error { return loop.Mount(filepath.Dir(data), data) }

// removeAll removes what a volume was, with what limited it.
func (s *Store) removeAll(dir, name string) error {
	if s.limiter != nil {
		return s.limiter.Remove(dir, filepath.Join(dir, name, "_data"))
	}
	return os.RemoveAll(dir)
}
