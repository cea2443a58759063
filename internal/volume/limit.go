package volume

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"
)

// How the disk space of a volume is limited.
const (
	byProject = "project" // the file system counts what is in its folder
	byFile    = "file"    // its content is a file system in a file of that size
)

// diskName is that file, beside the folder where it is mounted.
const diskName = "disk.ext4"

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

// makeDisk makes a file of n bytes beside a folder, with a file system that is empty.
func makeDisk(n uint64, data string) error {
	disk := filepath.Join(filepath.Dir(data), diskName)
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(int64(n)), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", disk).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errdefs.ErrNotImplemented.WithMessage("quota size requested but no quota support: the file system of the data root does not enforce project quotas (xfs with 'pquota', ext4 with 'prjquota'), and a file as a disk needs mkfs.ext4: install e2fsprogs")
	}
	if err != nil {
		return fmt.Errorf("make a disk of %s for the volume: mkfs.ext4: %w: %s", units.BytesSize(float64(n)), err, strings.TrimSpace(string(out)))
	}
	if err := mountDisk(disk, data); err != nil {
		return err
	}
	// A new volume is empty: that is what programs, and the copy of an image's files, look at.
	return errors.Join(os.Remove(filepath.Join(data, "lost+found")), mount.Unmount(data))
}

// mountDisk mounts a file. One that a container which is ending still has mounted
// is mounted by the same device: twice at once would spoil it.
func mountDisk(disk, at string) error {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	device, err := attached(f)
	if device == nil && err == nil {
		device, err = attachLoop(f)
	}
	if err != nil {
		return fmt.Errorf("a loop device for %s: %w", disk, err)
	}
	defer device.Close() // the mount keeps it, and frees it at its end
	return mount.Mount(device.Name(), at, "ext4", "discard")
}

// attached finds the loop device that a file is attached to; nil: none.
func attached(f *os.File) (*os.File, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &want); err != nil {
		return nil, err
	}
	used, err := filepath.Glob("/sys/block/loop*/loop") // is there while something is attached
	if err != nil {
		return nil, err
	}
	for _, dir := range used {
		device, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(dir)), os.O_RDWR, 0)
		if err != nil {
			continue // it is being freed
		}
		info, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
		if err == nil && info.Inode == want.Ino && info.Device == want.Dev {
			return device, nil
		}
		device.Close()
	}
	return nil, nil
}

func attachLoop(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		device, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
		if err == nil {
			return device, nil
		}
		device.Close()
		if err != unix.EBUSY { // somebody else was quicker
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

// removeAll removes what a volume was, with what limited it.
func (s *Store) removeAll(dir, name string) error {
	if s.limiter != nil {
		return s.limiter.Remove(dir, filepath.Join(dir, name, "_data"))
	}
	return os.RemoveAll(dir)
}
