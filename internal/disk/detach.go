package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Detach takes away what is mounted at dir and below it, though it be in use, for who
// deletes it: an engine that was killed may have left a disk of a container there, or
// somebody mounted something into a container's layer from the host.
func Detach(dir string) error {
	above, err := filepath.EvalSymlinks(filepath.Dir(dir)) // the kernel's names have none
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir = filepath.Join(above, filepath.Base(dir))
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("what is mounted in %s: %w", dir, err)
	}
	slices.Reverse(list) // what was mounted last lies above
	var errs []error
	for _, m := range list {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
			errs = append(errs, fmt.Errorf("detach %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}
