package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// asideSuffix is of what had a place while Exchange went on by renames.
const asideSuffix = ".aside"

// Exchange has two directories change names: at once, or, where the file system
// cannot (NFS), by renames in between of which place is not there; Recover is for who
// was killed then.
func Exchange(dir, place string) error {
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, place, unix.RENAME_EXCHANGE)
	if err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return exchange(dir, place)
}

func exchange(dir, place string) error {
	if err := os.Rename(place, place+asideSuffix); err != nil {
		return err
	}
	if err := os.Rename(dir, place); err != nil {
		return errors.Join(err, os.Rename(place+asideSuffix, place))
	}
	return os.Rename(place+asideSuffix, dir)
}

// Recover gives a place back what an Exchange that was cut off took, and removes what it
// left otherwise.
func Recover(place string) error {
	_, err := os.Lstat(place)
	if !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.RemoveAll(place+asideSuffix))
	}
	if err := os.Rename(place+asideSuffix, place); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
