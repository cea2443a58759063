package plain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Subvolumes is the Kind for btrfs: each tree is a subvolume, and a copy a
// snapshot, made at once whatever its size. containerd's own library for btrfs
// needs cgo, and the engine has none.
type Subvolumes struct{}

var _ Kind = Subvolumes{}

// From linux/btrfs.h.
const (
	ioctlSubvolCreate  = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	ioctlSnapCreateV2  = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
	ioctlSnapDestroy   = 0x5000940f // BTRFS_IOC_SNAP_DESTROY
	subvolumeInode     = 256        // BTRFS_FIRST_FREE_OBJECTID: of every subvolume's root
	subvolumeNameBytes = 4040       // BTRFS_SUBVOL_NAME_MAX + 1
)

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	fd   int64
	name [4088]byte
}

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd, transid, flags uint64
	_                  [4]uint64
	name               [subvolumeNameBytes]byte
}

func ioctl(dir string, request uintptr, arg unsafe.Pointer) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return control(f, request, arg)
}

// Make implements Kind.
func (Subvolumes) Make(dir string) error {
	var a volArgs
	copy(a.name[:len(a.name)-1], filepath.Base(dir))
	if err := ioctl(filepath.Dir(dir), ioctlSubvolCreate, unsafe.Pointer(&a)); err != nil {
		return notBtrfs("make the btrfs subvolume", dir, err)
	}
	return os.Chmod(dir, 0o755)
}

// Copy implements Kind.
func (Subvolumes) Copy(_ context.Context, from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("the layer below: %w", err)
	}
	defer src.Close()
	a := volArgsV2{fd: uint64(src.Fd())}
	copy(a.name[:len(a.name)-1], filepath.Base(to))
	if err := ioctl(filepath.Dir(to), ioctlSnapCreateV2, unsafe.Pointer(&a)); err != nil {
		return notBtrfs("make a btrfs snapshot of "+from+" at", to, err)
	}
	return nil
}

// Sync implements Kind: a snapshot is made by a transaction that the kernel has
// written out when it returns.
func (Subvolumes) Sync(string) error { return nil }

func notBtrfs(what, dir string, err error) error {
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("cannot %s %s: %v: the storage driver btrfs needs a data root on btrfs: give --data-root there, or another --storage-driver", what, dir, err))
	}
	return fmt.Errorf("%s %s: %w", what, dir, err)
}

// Ready implements Kind.
func (Subvolumes) Ready(string) error { return nil }

// Mend implements Kind.
func (Subvolumes) Mend(string) error { return nil }

// Delete implements Kind. Subvolumes that a container made in its own go first.
func (s Subvolumes) Delete(dir string) error {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Ino != subvolumeInode { // a repair put it there
		return os.RemoveAll(dir)
	}
	var a volArgs
	copy(a.name[:len(a.name)-1], filepath.Base(dir))
	err = ioctl(filepath.Dir(dir), ioctlSnapDestroy, unsafe.Pointer(&a))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EPERM) {
		return os.RemoveAll(dir) // rmdir(2) takes empty subvolumes since Linux 4.18
	}
	if err != nil {
		return fmt.Errorf("delete the btrfs subvolume %s: %w", dir, err)
	}
	return nil
}
