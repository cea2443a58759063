// Package disk measures what is on the engine's disk, and keeps it within a
// budget.
//
// Sizes are what du counts: the blocks of files and folders, those of a file
// with several hard links once, nothing below another file system's mount.
package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Entry is something that a walk meets.
type Entry struct {
	Dir  int    // a descriptor of its folder, open during the call
	Name string // in the folder
	Path string // below the folder of the walk
	Stat unix.Stat_t
}

// maxOpen is how many folders are kept open while what is below them is walked.
const maxOpen = 64

// Walk calls f with everything below dir, a folder before what it holds, names
// sorted by their bytes. It follows no symbolic link. fs.SkipDir leaves a
// folder out. What disappears meanwhile is left out; a missing dir is an error.
func Walk(ctx context.Context, dir string, f func(e *Entry) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	w := &walk{ctx: ctx, root: fd, dir: dir, f: f}
	return w.folder(own, "", 0)
}

type walk struct {
	ctx  context.Context
	root int
	dir  string
	f    func(*Entry) error
}

func (w *walk) fail(op, path string, err error) error {
	return &os.PathError{Op: op, Path: w.dir + "/" + path, Err: err}
}

// folder walks what is in the folder of fd, and closes it.
func (w *walk) folder(fd int, at string, depth int) error {
	defer func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	}()
	names, err := list(fd)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return w.fail("read", at, err)
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		e := Entry{Name: name, Path: name}
		if at != "" {
			e.Path = at + "/" + name
		}
		if fd < 0 {
			how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
			if fd, err = unix.Openat2(w.root, at, &how); err != nil {
				return w.fail("open", at, err)
			}
		}
		sub, err := w.entry(fd, &e)
		if err != nil {
			return err
		}
		if sub < 0 {
			continue
		}
		if depth >= maxOpen {
			unix.Close(fd)
			fd = -1
		}
		if err := w.folder(sub, e.Path, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// entry gives e to f; a folder that is to be walked is opened, otherwise sub
// is -1.
func (w *walk) entry(fd int, e *Entry) (sub int, err error) {
	e.Dir = fd
	if err := unix.Fstatat(fd, e.Name, &e.Stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return -1, nil
		}
		return -1, w.fail("stat", e.Path, err)
	}
	err = w.f(e)
	if errors.Is(err, fs.SkipDir) {
		return -1, nil
	}
	if err != nil || e.Stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, err
	}
	sub, err = unix.Openat(fd, e.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, nil // it is another now
	}
	if err != nil {
		return -1, w.fail("open", e.Path, err)
	}
	return sub, nil
}

func list(fd int) ([]string, error) {
	again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "folder")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

type inode struct{ dev, ino uint64 }

// Usage is what a file or folder takes on disk, with all below it. One that is
// not there takes nothing.
func Usage(ctx context.Context, path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return 0, nil
		}
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	total := st.Blocks * 512
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return total, nil
	}
	device := st.Dev
	seen := map[inode]bool{}
	err := Walk(ctx, path, func(e *Entry) error {
		if e.Stat.Dev != device {
			return fs.SkipDir
		}
		if e.Stat.Nlink > 1 && e.Stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			key := inode{e.Stat.Dev, e.Stat.Ino}
			if seen[key] {
				return nil
			}
			seen[key] = true
		}
		total += e.Stat.Blocks * 512
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return total, err
}

// Blocks is what a file or folder itself takes on disk; 0 when it is not there.
func Blocks(path string) int64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}
