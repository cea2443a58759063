package plain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// From linux/btrfs.h and linux/btrfs_tree.h.
const (
	ioctlQuotaCtl    = 0xc0109428 // BTRFS_IOC_QUOTA_CTL
	ioctlRescanWait  = 0x0000942e // BTRFS_IOC_QUOTA_RESCAN_WAIT
	ioctlQgroupLimit = 0x8030942b // BTRFS_IOC_QGROUP_LIMIT
	ioctlInoLookup   = 0xd0009412 // BTRFS_IOC_INO_LOOKUP
	ioctlTreeSearch  = 0xd0009411 // BTRFS_IOC_TREE_SEARCH
	quotaEnable      = 1          // BTRFS_QUOTA_CTL_ENABLE
	quotaTree        = 8          // BTRFS_QUOTA_TREE_OBJECTID
	qgroupInfo       = 242        // BTRFS_QGROUP_INFO_KEY
	limitReferenced  = 1          // BTRFS_QGROUP_LIMIT_MAX_RFER
)

// qgroupLimits is struct btrfs_ioctl_qgroup_limit_args. The group 0 is that of the
// subvolume itself.
type qgroupLimits struct {
	group, flags, maxReferenced, maxExclusive, reservedReferenced, reservedExclusive uint64
}

// searchArgs is struct btrfs_ioctl_search_args.
type searchArgs struct {
	tree                           uint64
	minObject, maxObject           uint64
	minOffset, maxOffset           uint64
	minTransaction, maxTransaction uint64
	minType, maxType, items        uint32
	_                              [9]uint32
	buf                            [3992]byte
}

// searchHeader is the length of struct btrfs_ioctl_search_header.
const searchHeader = 32

// Limit implements Kind: by a limit of what the subvolume's quota group refers to, so
// that what the tree shares with its image counts once. The kernel gives a snapshot
// the limit of its original. It turns quotas on for the file system, which the first
// time counts all that is there.
func (Subvolumes) Limit(dir string, bytes int64) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	ctl := [2]uint64{quotaEnable, 0} // struct btrfs_ioctl_quota_ctl_args
	if err := control(f, ioctlQuotaCtl, unsafe.Pointer(&ctl)); err != nil {
		return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("a container's disk space cannot be limited: quotas of btrfs cannot be turned on for %s: %v: leave --storage-opt size out", dir, err))
	}
	if err := control(f, ioctlRescanWait, nil); err != nil {
		return fmt.Errorf("wait until btrfs has counted what is in use: %w", err)
	}
	now, err := counted(f)
	if err != nil {
		return fmt.Errorf("ask btrfs what %s takes: %w", dir, err)
	}
	if len(now) < 16 { // struct btrfs_qgroup_info_item
		return fmt.Errorf("ask btrfs what %s takes: it has no quota group", dir)
	}
	l := qgroupLimits{flags: limitReferenced, maxReferenced: binary.LittleEndian.Uint64(now[8:]) + uint64(bytes)}
	if err := control(f, ioctlQgroupLimit, unsafe.Pointer(&l)); err != nil {
		return fmt.Errorf("limit the disk space of %s: %w", dir, err)
	}
	return nil
}

// counted reads what btrfs has counted for a subvolume's quota group; nothing where
// it has none.
func counted(f *os.File) ([]byte, error) {
	var lookup struct { // struct btrfs_ioctl_ino_lookup_args
		tree, object uint64
		name         [4080]byte
	}
	lookup.object = subvolumeInode
	if err := control(f, ioctlInoLookup, unsafe.Pointer(&lookup)); err != nil {
		return nil, err
	}
	a := searchArgs{tree: quotaTree, minOffset: lookup.tree, maxOffset: lookup.tree, maxTransaction: ^uint64(0), minType: qgroupInfo, maxType: qgroupInfo, items: 1}
	err := control(f, ioctlTreeSearch, unsafe.Pointer(&a))
	if errors.Is(err, unix.ENOENT) || err == nil && a.items == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := binary.NativeEndian.Uint32(a.buf[searchHeader-4:])
	if int(n) > len(a.buf)-searchHeader {
		return nil, errors.New("its answer is too long")
	}
	return a.buf[searchHeader : searchHeader+int(n)], nil
}

func control(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
