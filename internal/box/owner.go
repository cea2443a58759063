package box

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// pidfd is a copy of the owner's, to close.
func (o *Owner) pidfd(what string) (int, error) {
	fd := -1
	err := os.ErrClosed
	if o.Process != nil {
		fd, err = copyOf(o.Process)
	}
	if err != nil || ended(fd, 0) {
		if fd >= 0 {
			unix.Close(fd)
		}
		if err == nil || errors.Is(err, os.ErrClosed) {
			return -1, stepError(StepNamespace, o.ID, nil, "container "+o.ID+", whose "+what+" is joined, is not running")
		}
		return -1, stepError(StepNamespace, o.ID, err, "cannot hold on to container "+o.ID+", whose "+what+" is joined")
	}
	return fd, nil
}

// openTree clones the mount at a path of the owner's. The path is resolved in the
// owner's root and through no symbolic link: what is inside is hostile.
func (o *Owner) openTree(path string, flags uint) (int, error) {
	process, err := o.pidfd(path)
	if err != nil {
		return -1, err
	}
	defer unix.Close(process)
	return elsewhere(func() (int, error) {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return -1, err
		}
		if err := unix.Setns(process, unix.CLONE_NEWNS); err != nil { // its root is this thread's then
			return -1, err
		}
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
		at, err := unix.Openat2(unix.AT_FDCWD, path, &how)
		if err != nil {
			return -1, err
		}
		defer unix.Close(at)
		return unix.OpenTree(at, "", flags|unix.AT_EMPTY_PATH)
	})
}
