// Package quota limits what a directory tree may take on disk, by project
// quotas (xfs and ext4). Projects are numbered from a range of their own, and a
// number is used only while neither files nor a limit have it.
package quota

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Projects of this package: other tools count from 1 or take user ids.
const (
	firstProject = 0x48000000
	lastProject  = 0x4fffffff
)

// From linux/quota.h and linux/dqblk_xfs.h.
const (
	projectQuota   = 2           // PRJQUOTA
	getState       = 'X'<<8 | 5  // Q_XGETQSTAT
	getQuota       = 'X'<<8 | 3  // Q_XGETQUOTA
	setLimit       = 'X'<<8 | 4  // Q_XSETQLIM
	enforced       = 1<<4 | 1<<5 // FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD
	blockLimits    = 1<<2 | 1<<3 // FS_DQ_BSOFT, FS_DQ_BHARD
	projectKind    = 2           // FS_PROJ_QUOTA
	inherited      = 0x200       // FS_XFLAG_PROJINHERIT
	getAttributes  = 0x801c581f  // FS_IOC_FSGETXATTR
	setAttributes  = 0x401c5820  // FS_IOC_FSSETXATTR
	unitsPerSector = 512
)

// attributes is struct fsxattr (linux/fs.h).
type attributes struct {
	flags, extent, extents, project, cow uint32
	pad                                  [8]byte
}

// limits is struct fs_disk_quota.
type limits struct {
	version, kind    int8
	mask             uint16
	id               uint32
	hard, soft       uint64 // of 512 bytes
	inoHard, inoSoft uint64
	blocks, inodes   uint64
	rest             [56]byte
}

// Limit lets a tree take no more than so many bytes. Its directories must be
// empty but for each other, parents first; a tree that is limited already keeps
// its project. Error: NotImplemented where the file system cannot do it.
func Limit(bytes uint64, dirs ...string) error {
	root, err := os.Open(dirs[0])
	if err != nil {
		return err
	}
	defer root.Close()
	if err := supported(root); err != nil {
		return err
	}
	a, err := attributesOf(root)
	if err != nil {
		return fmt.Errorf("the project of %s: %w", dirs[0], err)
	}
	id := a.project
	fresh := !ours(id)
	if fresh {
		if id, err = free(root); err != nil {
			return err
		}
	}
	if err := limit(root, id, bytes); err != nil {
		return fmt.Errorf("limit the disk space of %s: %w", dirs[0], err)
	}
	for _, dir := range dirs {
		if err := join(dir, id); err != nil {
			err = fmt.Errorf("limit the disk space of %s: %w", dir, err)
			if fresh { // else a tree is in it, and stays limited
				err = errors.Join(err, limit(root, id, 0))
			}
			return err
		}
	}
	return nil
}

// Alike limits the directory to, which is empty, as the tree from is.
func Alike(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	var l limits
	if err := control(f, getQuota, Of(from), unsafe.Pointer(&l)); err != nil {
		return fmt.Errorf("the limit of %s: %w", from, err)
	}
	return Limit(l.hard*unitsPerSector, to)
}

// Of is the project of a tree that Limit limited, or 0.
func Of(dir string) uint32 {
	f, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	a, err := attributesOf(f)
	if err != nil || !ours(a.project) {
		return 0
	}
	return a.project
}

// Forget gives a project back whose files are gone; dir is anywhere on its file system.
func Forget(dir string, project uint32) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return limit(f, project, 0)
}

func ours(id uint32) bool { return id >= firstProject && id <= lastProject }

// supported says whether the file system enforces project quotas.
func supported(f *os.File) error {
	var state [128]byte // struct fs_quota_stat: version, flags ...
	err := control(f, getState, 0, unsafe.Pointer(&state))
	if err == nil && *(*uint16)(unsafe.Pointer(&state[2]))&enforced == enforced {
		return nil
	}
	return errdefs.ErrNotImplemented.WithMessage("--storage-opt is supported only for overlay over xfs with 'pquota' mount option, or ext4 with 'prjquota': " +
		"the file system of the data root does not enforce project quotas: mount it with that option (ext4 needs `tune2fs -O quota,project` before), on Linux 5.14 or newer; or leave out --storage-opt")
}

// free finds a project that nothing has.
func free(f *os.File) (uint32, error) {
	for range 100 {
		id := firstProject + rand.Uint32N(lastProject-firstProject+1)
		var l limits
		err := control(f, getQuota, id, unsafe.Pointer(&l))
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || err == nil && l.hard == 0 && l.blocks == 0 && l.inodes == 0 {
			return id, nil
		}
		if err != nil {
			return 0, fmt.Errorf("look for a free project of the file system's quotas: %w", err)
		}
	}
	return 0, errors.New("no project of the file system's quotas is free")
}

func limit(f *os.File, id uint32, bytes uint64) error {
	sectors := (bytes + unitsPerSector - 1) / unitsPerSector
	l := limits{version: 1, kind: projectKind, mask: blockLimits, id: id, hard: sectors, soft: sectors}
	return control(f, setLimit, id, unsafe.Pointer(&l))
}

func join(dir string, id uint32) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	a, err := attributesOf(f)
	if err != nil {
		return err
	}
	a.project = id
	a.flags |= inherited
	return ioctl(f, setAttributes, unsafe.Pointer(&a))
}

func attributesOf(f *os.File) (attributes, error) {
	var a attributes
	return a, ioctl(f, getAttributes, unsafe.Pointer(&a))
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// control is quotactl_fd(2), which needs no path of a block device.
func control(f *os.File, command int, id uint32, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), uintptr(command<<8|projectQuota), uintptr(id), uintptr(arg), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
