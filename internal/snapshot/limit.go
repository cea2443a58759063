package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/disk/loop"
	"hezi/internal/snapshot/quota"
)

const (
	diskName    = "disk"    // where that of a container is mounted
	reserveName = "reserve" // on it: space for layers and mounts when it is full
	reserve     = 1 << 20
	reservePart = 32 << 10  // for one, whose directories take a block each
	forLayers   = 768 << 10 // of it that starts do not take: the container gets what they leave
)

// holdBack takes up the reserve of a container's disk, if there is space.
func (s *Store) holdBack(id string) {
	if !s.limited(id) || !loop.Mounted(s.diskOf(id)) { // or it would be on the host
		return
	}
	f, err := os.OpenFile(filepath.Join(s.diskOf(id), reserveName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserve), f.Close())
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		s.log.Warn("no space is held back on the disk of a container", "container", id, "error", err)
	}
}

// startable has what a mount makes for itself find space on a container's disk, though
// it be full.
func (s *Store) startable(id string) error {
	err := s.writable(id)
	if err != nil || !s.limited(id) {
		return err
	}
	s.holdBack(id)
	var st unix.Statfs_t
	if unix.Statfs(s.diskOf(id), &st) == nil && int64(st.Bavail)*st.Bsize < reservePart {
		s.giveUp(id, forLayers)
	}
	return nil
}

// giveUp gives up some of that reserve, but for what is to be kept; false: there is none.
func (s *Store) giveUp(id string, keep int64) bool {
	if !s.limited(id) {
		return false
	}
	path := filepath.Join(s.diskOf(id), reserveName)
	st, err := os.Stat(path)
	if err != nil || st.Size() < keep+reservePart {
		return false
	}
	return os.Truncate(path, st.Size()-reservePart) == nil
}

// limited says whether a container's layers are on a disk of their own.
func (s *Store) limited(id string) bool {
	_, ok := s.disks.Load(id)
	return ok
}

// folder is where a container's layers are; it reads nothing. Its name is always the
// container's: box.RootOf knows a layer with mapped owners by that alone.
func (s *Store) folder(id string) string {
	if s.limited(id) {
		return filepath.Join(s.diskOf(id), id)
	}
	return filepath.Join(s.root, id)
}

// diskOf is where the disk of a container is mounted.
func (s *Store) diskOf(id string) string { return filepath.Join(s.root, id, diskName) }

// findDisks mounts the disks that there are, as after a reboot. One that cannot be
// mounted is tried again when it is used.
func (s *Store) findDisks() error {
	list, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("list the writable layers: %w", err)
	}
	for _, d := range list {
		id := d.Name()
		if !valid(id) || loop.File(filepath.Join(s.root, id)) == "" {
			continue
		}
		s.disks.Store(id, nil)
		if err := s.ready(id); err != nil {
			s.log.Error("the disk of a container whose space is limited cannot be mounted: the container cannot be used", "container", id, "error", err)
		}
	}
	return nil
}

// unmountDisks lets go of the disks; containers that run keep theirs by their own mounts.
func (s *Store) unmountDisks() {
	s.disks.Range(func(id, _ any) bool {
		err := unix.Unmount(s.diskOf(id.(string)), unix.UMOUNT_NOFOLLOW)
		if err != nil && err != unix.EINVAL && err != unix.EBUSY && err != unix.ENOENT {
			s.log.Warn("the disk of a container stays mounted", "container", id, "error", err)
		}
		return true
	})
}

// ready makes sure that the disk of a container that has one is mounted.
func (s *Store) ready(id string) error {
	if !s.limited(id) {
		return nil
	}
	at := s.diskOf(id)
	if loop.Mounted(at) {
		return nil
	}
	_, err, _ := s.mounts.Do(id, func() (any, error) {
		if loop.Mounted(at) {
			return nil, nil
		}
		if err := os.Mkdir(at, 0o710); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("the container's writable layer: %w", err)
		}
		if err := loop.Mount(filepath.Dir(at), at); err != nil {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the container's writable layer: %v", err))
		}
		return nil, nil
	})
	return err
}

// writable makes sure that the disk of a container that has one, and does not run, is
// mounted and takes what is written.
func (s *Store) writable(id string) error {
	err := s.ready(id)
	if err != nil || !s.limited(id) {
		return err
	}
	_, err, _ = s.mounts.Do(id, func() (any, error) {
		return nil, loop.Mend(filepath.Join(s.root, id), s.diskOf(id))
	})
	if err != nil {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the container's writable layer: %v", err))
	}
	return nil
}

// Limit bounds the bytes on disk of a layer that is empty, or was limited before: by
// a project quota, or a disk in a file. Error: NotImplemented where neither can be had.
func (s *Store) Limit(id string, bytes int64) error {
	if s.limited(id) {
		return s.ready(id)
	}
	w := s.Get(id, nil)
	err := quota.Limit(uint64(bytes), filepath.Dir(w.Upper), w.Upper, w.Work)
	if !errdefs.IsNotImplemented(err) {
		return err
	}
	if derr := s.onDisk(id, bytes); derr != nil {
		if errdefs.IsNotImplemented(derr) {
			return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("%v; %v", err, derr))
		}
		return fmt.Errorf("limit the disk space of the container: %w", derr)
	}
	return nil
}

// onDisk gives a container whose layer is empty a disk of its own.
func (s *Store) onDisk(id string, bytes int64) (err error) {
	w := s.Get(id, nil)
	top, at := filepath.Join(s.root, id), s.diskOf(id)
	if err := os.Mkdir(at, 0o710); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := loop.Make(context.Background(), bytes+reserve, top, at); err != nil {
		return errors.Join(err, os.Remove(at))
	}
	s.disks.Store(id, nil)
	s.holdBack(id)
	defer func() {
		if err != nil {
			s.disks.Delete(id)
			err = errors.Join(err, loop.Unmount(at), os.Remove(loop.File(top)), os.Remove(at))
		}
	}()
	for _, dir := range []string{w.Upper, w.Work} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	now := s.Get(id, nil)
	if err := os.Mkdir(s.folder(id), 0o710); err != nil {
		return err
	}
	if err := os.Mkdir(now.Upper, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(now.Work, 0o700); err != nil {
		return err
	}
	return loop.Sync(at)
}

// CanLimit tries whether Limit can be used with so many bytes. Error: as Limit's.
func (s *Store) CanLimit(bytes int64) error {
	dir, err := os.MkdirTemp(s.root, trashPrefix+"limit-")
	if err != nil {
		return fmt.Errorf("try to limit a folder: %w", err)
	}
	defer s.deleteBehind(dir) // gives the project back
	err = quota.Limit(uint64(bytes), dir)
	if !errdefs.IsNotImplemented(err) {
		return err
	}
	at := filepath.Join(dir, diskName)
	if err := os.Mkdir(at, 0o710); err != nil {
		return fmt.Errorf("try to limit a folder: %w", err)
	}
	if derr := loop.Make(context.Background(), bytes+reserve, dir, at); derr != nil {
		return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("%v; %v", err, derr))
	}
	return loop.Unmount(at)
}
