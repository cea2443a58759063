package initproc

import (
	"context"

	"golang.org/x/sys/unix"

	"hezi/internal/box/copytree"
)

// CopyUp fills the empty volume with what the image has at target. The calling
// thread's working directory must be its own: it is changed and put back.
func CopyUp(target, volume int) error {
	from, err := openIn(target, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := openIn(volume, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if empty, err := copytree.IsEmpty(to); err != nil || !empty {
		return err
	}
	cwd, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(cwd)
	err = copytree.Copy(context.Background(), from, to)
	if back := unix.Fchdir(cwd); err == nil {
		err = back
	}
	return err
}
