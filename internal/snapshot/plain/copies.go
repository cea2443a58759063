package plain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/disk"
	"hezi/internal/disk/loop"
	"hezi/internal/snapshot/quota"
)

// limitedName is of the tree that Limit makes beside the one whose place it gets.
const limitedName = "limited"

// Copies is the Kind that copies every file; where the file system can, two
// copies share their blocks until one is written to (copy_file_range(2)).
type Copies struct{ mounts *singleflight.Group }

var _ Kind = Copies{}

// NewCopies makes one.
func NewCopies() Copies { return Copies{mounts: &singleflight.Group{}} }

// Make implements Kind.
func (Copies) Make(dir string) error { return makeRoot(dir) }

func makeRoot(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make a folder for a layer: %w", err)
	}
	return os.Chmod(dir, 0o755) // whatever the umask is
}

// Copy implements Kind.
func (Copies) Copy(ctx context.Context, from, to string) error {
	if err := makeRoot(to); err != nil {
		return err
	}
	err := error(nil)
	if before := filepath.Dir(from); loop.File(before) != "" {
		err = loop.Alike(ctx, before, filepath.Dir(to), to)
	} else if quota.Of(from) != 0 {
		err = quota.Alike(from, to)
	}
	if err != nil {
		return fmt.Errorf("limit the copy as the original is: %w", err)
	}
	if err := box.CopyLayer(ctx, from, to); err != nil {
		return fmt.Errorf("copy the layer below: %w", err)
	}
	return nil
}

// Sync implements Kind.
func (Copies) Sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// Ready implements Kind.
func (c Copies) Ready(dir string) error {
	folder := filepath.Dir(dir)
	if loop.File(folder) == "" || loop.Mounted(dir) {
		return nil
	}
	_, err, _ := c.mounts.Do(dir, func() (any, error) {
		if loop.Mounted(dir) {
			return nil, nil
		}
		return nil, loop.Mount(folder, dir)
	})
	if err != nil {
		return errdefs.ErrFailedPrecondition.WithMessage(err.Error())
	}
	return nil
}

// Mend implements Kind.
func (c Copies) Mend(dir string) error {
	err := c.Ready(dir)
	if folder := filepath.Dir(dir); err == nil && loop.File(folder) != "" {
		if _, err, _ = c.mounts.Do(dir, func() (any, error) { return nil, loop.Mend(folder, dir) }); err != nil {
			return errdefs.ErrFailedPrecondition.WithMessage(err.Error())
		}
	}
	return err
}

// Limit implements Kind: by another copy, which is made with a project quota, or on a
// disk in a file. The kernel lets no link of one project be moved to another, so
// what there is cannot be given a project.
func (c Copies) Limit(dir string, bytes int64) (err error) {
	folder := filepath.Dir(dir)
	to := filepath.Join(folder, limitedName)
	if quota.Of(dir) != 0 || loop.File(folder) != "" { // it is
		return nil
	}
	ctx := context.Background()
	used, onAny, err := taken(ctx, dir)
	if err != nil {
		return fmt.Errorf("measure what is to be limited: %w", err)
	}
	if err := makeRoot(to); err != nil {
		return err
	}
	onDisk := false
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Delete(to))
			if onDisk {
				err = errors.Join(err, os.Remove(loop.File(folder)))
			}
		}
	}()
	err = quota.Limit(uint64(used+bytes), to)
	if errdefs.IsNotImplemented(err) {
		derr := loop.Make(ctx, onAny+bytes, folder, to)
		if errdefs.IsNotImplemented(derr) {
			return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("%v; %v", err, derr))
		}
		err, onDisk = derr, derr == nil
	}
	if err == nil {
		err = box.CopyLayer(ctx, dir, to)
	}
	if err == nil && onDisk {
		err = loop.Sync(to)
	}
	if err == nil {
		err = c.replace(dir, to, onDisk)
	}
	if err != nil {
		return fmt.Errorf("limit the disk space of the container: %w", err)
	}
	return nil
}

// replace gives a tree's place to the one at another, which may be on a disk.
func (c Copies) replace(dir, to string, onDisk bool) error {
	if onDisk { // no mount can be moved with its directory
		if err := errors.Join(c.Sync(to), loop.Unmount(to)); err != nil {
			return err
		}
	}
	if err := disk.Exchange(to, dir); err != nil {
		return err
	}
	if onDisk {
		if err := loop.Mount(filepath.Dir(dir), dir); err != nil {
			return err
		}
	}
	return os.RemoveAll(to)
}

// taken is what a tree takes when it is copied: its data, and what it takes on a disk
// in a file at most, which has an inode for each of so many blocks. Blocks that files
// share count for each.
func taken(ctx context.Context, dir string) (data, onDisk int64, err error) {
	const (
		block  = 4096
		inline = 60 // bytes of a symbolic link that its inode has (fs/ext4/ext4.h, EXT4_N_BLOCKS)
	)
	seen := map[uint64]bool{}
	err = disk.Walk(ctx, dir, func(e *disk.Entry) error {
		st := &e.Stat
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if st.Nlink > 1 && !isDir {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		size := (st.Size + block - 1) / block * block
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if st.Blocks*512 < st.Size {
				size = min(size, withoutHoles(e, block))
			}
		case unix.S_IFDIR:
			size = max(size, block)
		case unix.S_IFLNK:
			if st.Size < inline {
				size = 0
			}
		default:
			size = 0
		}
		data, onDisk = data+size, onDisk+max(size, block)
		return nil
	})
	return data, onDisk, err
}

// withoutHoles is what a file takes in blocks; where that cannot be told, its size.
func withoutHoles(e *disk.Entry, block int64) (total int64) {
	all := (e.Stat.Size + block - 1) / block * block
	fd, err := unix.Openat(e.Dir, e.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return all
	}
	defer unix.Close(fd)
	for at := int64(0); at < e.Stat.Size; {
		begin, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // there is a hole up to the end
			break
		}
		if err != nil {
			return all
		}
		if at, err = unix.Seek(fd, begin, unix.SEEK_HOLE); err != nil || at <= begin {
			return all
		}
		total += (at+block-1)/block*block - begin/block*block
	}
	return total
}

// Delete implements Kind.
func (Copies) Delete(dir string) error {
	for loop.Mounted(dir) {
		if err := loop.Unmount(dir); err != nil {
			return err
		}
	}
	project := quota.Of(dir)
	err := os.RemoveAll(dir)
	if err == nil && project != 0 {
		err = quota.Forget(filepath.Dir(dir), project)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
