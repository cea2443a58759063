// Package loop keeps file systems in sparse files, mounted by loop devices: a
// folder on one can hold no more than it has, whatever file system is below.
//
//	DIR/disk.ext4  or, without mkfs.ext4, DIR/disk.xfs
package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// kind is a file system that a file can have.
type kind struct {
	name string
	// overhead is what it needs for itself, beside size bytes for others, at most.
	overhead func(size int64) int64
	least    int64 // size that it is used for, in bytes
	mkfs     func(total, journal int64) []string
	options  string // of the mount
	pkg      string // has its mkfs
}

// small is the size of a disk of ext4 with small blocks, which take a smaller journal;
// total is when one that has its overhead is.
const (
	small      = 16 << 20
	smallTotal = 20 << 20
)

// journal is how many MiB that of ext4 has: as mke2fs chooses, but for the largest.
func journal(size int64) int64 {
	switch {
	case size < small:
		return 1
	case size < 128<<20:
		return 4
	case size < 1<<30:
		return 16
	}
	return 64
}

// kinds are tried in this order. Nothing is written that is zero, as all of a new file is.
var kinds = []kind{
	{name: "ext4", pkg: "e2fsprogs",
		// Inodes, bitmaps, the journal, and what the kernel keeps back (fs/ext4/super.c, ext4_set_resv_clusters).
		overhead: func(size int64) int64 {
			return size/15 + (size/4096+journal(size)<<20+min(size/50, 16<<20)+1<<20)*16/15
		},
		mkfs: func(total, journal int64) []string { // with an inode for 4 KiB: space ends before they do
			block := "4096"
			if total < smallTotal {
				block = "1024"
			}
			return []string{"mkfs.ext4", "-q", "-F", "-m", "0", "-b", block, "-i", "4096", "-O", "^resize_inode",
				"-J", "size=" + strconv.FormatInt(journal, 10), "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"}
		},
		options: "discard,noinit_itable"},
	{name: "xfs", pkg: "xfsprogs", least: 300 << 20,
		overhead: func(size int64) int64 { return size/20 + 80<<20 },
		mkfs:     func(int64, int64) []string { return []string{"mkfs.xfs", "-q", "-K"} },
		options:  "discard"},
}

func (k *kind) file(dir string) string { return filepath.Join(dir, "disk."+k.name) }

// find is the file in a folder, and its kind; nil: there is none.
func find(dir string) (string, *kind) {
	for i := range kinds {
		file := kinds[i].file(dir)
		if _, err := os.Lstat(file); err == nil {
			return file, &kinds[i]
		}
	}
	return "", nil
}

// File is the file with a file system that a folder has; "" if there is none.
func File(dir string) string {
	file, _ := find(dir)
	return file
}

// Make makes a file in the folder dir with a file system in which size bytes have
// space, and mounts it at the directory at. Both are on the disk then. Error:
// NotImplemented where the host has not what this needs.
func Make(ctx context.Context, size int64, dir, at string) error {
	var missing []string
	for i := range kinds {
		k := &kinds[i]
		if _, err := exec.LookPath("mkfs." + k.name); err != nil {
			missing = append(missing, fmt.Sprintf("mkfs.%s (install %s)", k.name, k.pkg))
			continue
		}
		if size < k.least { // mkfs would make more of it
			continue
		}
		total := size + k.overhead(size)
		if size < 0 || total < size {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a disk cannot have %d bytes", size))
		}
		err := k.make(ctx, total, journal(size), dir, at)
		if errors.Is(err, unix.ENODEV) {
			missing = append(missing, fmt.Sprintf("the kernel's %s (modprobe %s)", k.name, k.name))
			continue
		}
		return err
	}
	return errdefs.ErrNotImplemented.WithMessage("a file as a disk needs " + strings.Join(missing, " or "))
}

// Alike makes a disk, as Make does, in which all that the disk of the folder other has
// finds space.
func Alike(ctx context.Context, other, dir, at string) error {
	file, k := find(other)
	if k == nil {
		return gone(other)
	}
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	least := journal(small)
	if st.Size() < smallTotal {
		least = journal(0)
	}
	return k.make(ctx, st.Size(), least, dir, at)
}

func gone(dir string) error {
	return fmt.Errorf("%s has no file disk.ext4: somebody removed it: %w", dir, os.ErrNotExist)
}

// make makes a file of total bytes.
func (k *kind) make(ctx context.Context, total, journal int64, dir, at string) (err error) {
	file := k.file(dir)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	if err := f.Truncate(total); err != nil {
		return fmt.Errorf("make a disk of %s: %w", units.BytesSize(float64(total)), err)
	}
	args := append(k.mkfs(total, journal), file)
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("make a disk of %s: %s: %w: %s", units.BytesSize(float64(total)), args[0], err, strings.TrimSpace(string(out)))
	}
	if err := f.Sync(); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	if err := k.mount(f, at); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(at, "lost+found")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, Unmount(at))
	}
	return nil
}

// Mount mounts the file of the folder dir at a directory. One that is mounted in
// another place, or that somebody who is ending still has, is mounted by the same device.
func Mount(dir, at string) error {
	file, k := find(dir)
	if k == nil {
		return gone(dir)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return k.mount(f, at)
}

func (k *kind) mount(f *os.File, at string) error {
	device, err := attached(f) // two would spoil it
	if device == nil && err == nil {
		device, err = attach(f)
	}
	if err != nil {
		err = fmt.Errorf("a loop device for %s: %w", f.Name(), err)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			err = errdefs.ErrNotImplemented.WithMessage(err.Error() + " (`modprobe loop`, and /dev/loop-control and /dev/loop* must be there)")
		}
		return err
	}
	defer device.Close() // the mount keeps it, and frees it at its end
	err = unix.Mount(device.Name(), at, k.name, 0, k.options)
	switch err {
	case nil:
		return nil
	case unix.EINVAL, unix.EUCLEAN, unix.EBADMSG: // bad superblock, EFSCORRUPTED, EFSBADCRC
		return fmt.Errorf("mount the disk %s: %w: it is damaged: `fsck.%s %s` may repair it", f.Name(), err, k.name, f.Name())
	case unix.EIO, unix.ENOSPC, unix.EROFS: // nor can its journal be read, or written
		return fmt.Errorf("mount the disk %s: %w: %s; if that does not help, it is damaged: `fsck.%s %s` may repair it", f.Name(), err, advice, k.name, f.Name())
	}
	return fmt.Errorf("mount the disk %s: %w", f.Name(), err)
}

// advice is for a disk that cannot be written to.
const advice = "the host's disk was full, or failed: free space there, then try again"

// renewal is how long those that still use a disk are waited for.
const renewal = 3 * time.Second

// Mend makes sure that the disk of the folder dir, which is mounted at a directory, can
// be written to: file systems stop writing for good after an error, as on a full host,
// until they are mounted anew. That is possible while nobody else has it.
func Mend(dir, at string) error {
	err := writable(at)
	if err == nil {
		return nil
	}
	if err := Unmount(at); err != nil {
		return err
	}
	file := File(dir)
	for end := time.Now().Add(renewal); time.Now().Before(end) && inUse(file); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := Mount(dir, at); err != nil {
		return err
	}
	if err := writable(at); err != nil {
		return fmt.Errorf("write to the disk %s: %w: %s; if that does not help, stop what uses it", file, err, advice)
	}
	return nil
}

// writable tries to write; that there is no space is no error.
func writable(at string) error {
	name := filepath.Join(at, ".trying")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(name))
	}
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO) {
		return err
	}
	return nil
}

// inUse says whether a loop device has a file.
func inUse(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	device, err := attached(f)
	if device != nil {
		device.Close()
	}
	return device != nil && err == nil
}

// Mounted says whether the directory at, whose parent is on the host's file system, is
// a mounted disk.
func Mounted(at string) bool {
	var st, above unix.Stat_t
	return unix.Lstat(at, &st) == nil && unix.Lstat(filepath.Dir(at), &above) == nil && st.Dev != above.Dev
}

// Sync has what a disk has had written on the host's disk. Until then a host that gets
// full takes it away: the file is sparse, and ext4 gives up its journal.
func Sync(at string) error {
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write the disk of %s: %w", at, err)
	}
	return nil
}

// Unmount takes the disk at a directory away; one that is not mounted is no error. Who
// has something of it open keeps it.
func Unmount(at string) error {
	err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount the disk %s: %w", at, err)
	}
	return nil
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
		name, err := os.ReadFile(filepath.Join(dir, "backing_file"))
		if err != nil || filepath.Base(strings.TrimSuffix(string(name), "\n")) != filepath.Base(f.Name()) {
			continue // its path may be another one, of another mount or before a rename of folders
		}
		device, err := os.Open("/dev/" + filepath.Base(filepath.Dir(dir))) // closing one open for writing has udev look at it
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

func attach(f *os.File) (*os.File, error) {
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
