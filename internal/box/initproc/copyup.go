package initproc

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyUp fills the empty volume with what the image has at target. All goes by
// descriptors and names without links, so nothing that another container does to
// the volume meanwhile leads outside of it. The calling thread's working directory
// must be its own: it is changed and put back.
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
	present, err := names(to)
	if err != nil || len(present) > 0 {
		return err
	}
	c := copier{links: map[[2]uint64]string{}, top: to}
	return c.tree(from)
}

// CopyLayer fills an empty directory with the layer of an overlay as it lies on the
// disk: with whiteouts and with the attributes that overlay keeps. goOn is asked
// before each file. The calling thread is as for CopyUp.
func CopyLayer(from, to int, goOn func() error) error {
	c := copier{links: map[[2]uint64]string{}, top: to, layer: true, goOn: goOn}
	return c.tree(from)
}

// tree copies what from holds, and what from itself is, to the top.
func (c *copier) tree(from int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	cwd, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(cwd)
	err = c.dir(from, c.top, "")
	if err == nil {
		err = c.attributes(from, c.top, &st)
	}
	if back := unix.Fchdir(cwd); err == nil {
		err = back
	}
	return err
}

// names lists a directory.
func names(fd int) ([]string, error) {
	var out []string
	buf := make([]byte, 32<<10)
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return out, err
		}
		for b := buf[:n]; len(b) > 0; {
			size := binary.NativeEndian.Uint16(b[16:])
			name, _, _ := strings.Cut(string(b[19:size]), "\x00")
			b = b[size:]
			if name != "." && name != ".." {
				out = append(out, name)
			}
		}
	}
}

type copier struct {
	links map[[2]uint64]string // device and inode to the first path below top
	top   int

	layer bool // of an overlay, with what the kernel noted there
	goOn  func() error
}

// dir copies what from holds into to; at is to's path below the top.
func (c *copier) dir(from, to int, at string) error {
	list, err := names(from)
	if err != nil {
		return err
	}
	for _, name := range list {
		if err := c.entry(from, to, name, at+name); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(from, to int, name, at string) error {
	if c.goOn != nil {
		if err := c.goOn(); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := c.links[key]; ok {
			return unix.Linkat(c.top, first, to, name, 0)
		}
		c.links[key] = at
	}
	switch kind {
	case unix.S_IFDIR:
		return c.subdir(from, to, name, at, &st)
	case unix.S_IFREG:
		return c.file(from, to, name, &st)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, buf)
		if err == nil {
			err = unix.Symlinkat(string(buf[:n]), to, name)
		}
		if err != nil {
			return err
		}
	case unix.S_IFSOCK:
		return nil // a socket without its server is of no use
	default:
		if err := unix.Mknodat(to, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return c.named(from, to, name, &st)
}

func (c *copier) subdir(from, to int, name, at string, st *unix.Stat_t) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	src, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	dst, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := c.dir(src, dst, at+"/"); err != nil {
		return err
	}
	return c.attributes(src, dst, st)
}

func (c *copier) file(from, to int, name string, st *unix.Stat_t) error {
	src, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := content(src, dst); err != nil {
		return err
	}
	return c.attributes(src, dst, st)
}

func content(src, dst int) error {
	if unix.IoctlFileClone(dst, src) == nil {
		return nil
	}
	for {
		n, err := unix.Sendfile(dst, src, nil, 1<<30)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// attributes copies owner, mode, extended attributes and times. chown comes
// first: it clears set-id bits and file capabilities.
func (c *copier) attributes(src, dst int, st *unix.Stat_t) error {
	if err := unix.Fchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(dst, st.Mode&0o7777); err != nil {
		return err
	}
	err := c.xattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(src, b) },
		func(n string, b []byte) (int, error) { return unix.Fgetxattr(src, n, b) },
		func(n string, b []byte) error { return unix.Fsetxattr(dst, n, b, 0) })
	if err != nil {
		return err
	}
	return futimens(dst, []unix.Timespec{st.Atim, st.Mtim})
}

// named does the same for what cannot be opened: links and special files.
func (c *copier) named(from, to int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	err := c.xattrs(
		func(b []byte) (int, error) {
			return inDir(from, func() (int, error) { return unix.Llistxattr(name, b) })
		},
		func(n string, b []byte) (int, error) {
			return inDir(from, func() (int, error) { return unix.Lgetxattr(name, n, b) })
		},
		func(n string, b []byte) error {
			_, err := inDir(to, func() (int, error) { return 0, unix.Lsetxattr(name, n, b, 0) })
			return err
		})
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// inDir stands in for the missing lgetxattrat(2) family: the working directory is
// free to use.
func inDir(fd int, f func() (int, error)) (int, error) {
	if err := unix.Fchdir(fd); err != nil {
		return 0, err
	}
	return f()
}

func (c *copier) xattrs(list func([]byte) (int, error), get func(string, []byte) (int, error), set func(string, []byte) error) error {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := list(buf)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || !c.layer && (strings.HasPrefix(name, "trusted.overlay.") || name == "security.selinux") {
			continue // overlay's own, and a label that belongs to the image
		}
		size, err := get(name, value)
		if err == nil {
			err = set(name, value[:size])
		}
		if err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			return err
		}
	}
	return nil
}
