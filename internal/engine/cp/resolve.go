// Package cp reads and writes what is at a path in a container, as archives.
//
// A container that runs may change its files and links at every moment, so no
// answer is relied on that an earlier look at a path gave: what is found is a
// descriptor from then on, and every path is resolved inside the container's root by the kernel (openat2(2)).
package cp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// Tree is a container's file system.
type Tree struct {
	Root *os.File // may be opened as a path only
	// Do calls f with the container's root as its own and among its mounts, on a
	// thread that nobody else uses.
	Do func(f func() error) error
	// IDs are the container's ids and those that its files have as we see them.
	IDs user.IdentityMapping
}

// owners are the container's ids of a file; what it has no id for is nobody's.
func (t *Tree) owners(uid, gid uint32) (uint32, uint32) {
	return inside(t.IDs.UIDMaps, uid), inside(t.IDs.GIDMaps, gid)
}

func inside(maps []user.IDMap, id uint32) uint32 {
	for _, m := range maps {
		if d := int64(id) - m.ParentID; d >= 0 && d < m.Count {
			return uint32(m.ID + d)
		}
	}
	return 65534 // /proc/sys/kernel/overflowuid
}

// openAt resolves p inside root. flags with O_NOFOLLOW open a link itself.
func openAt(root int, p string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range 1000 {
		fd, err := unix.Openat2(root, p, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename raced with ".."
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// Clean makes a path absolute; a slash or a dot at its end, which mean what a link
// there points to, stay.
func Clean(p string) string {
	cleaned := path.Clean("/" + p)
	switch {
	case cleaned == "/":
	case strings.HasSuffix(p, "/."):
		cleaned += "/."
	case strings.HasSuffix(p, "/"):
		cleaned += "/"
	}
	return cleaned
}

// find opens a path, as a path; a link at its end is opened itself, unless a
// slash follows.
func (t *Tree) find(p string) (fd int, st unix.Stat_t, err error) {
	p = Clean(p)
	flags := uint64(unix.O_PATH | unix.O_NOFOLLOW)
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		flags = unix.O_PATH | unix.O_DIRECTORY
	}
	if fd, err = openAt(int(t.Root.Fd()), p, flags); err != nil {
		return -1, st, err
	}
	if err = unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// Stat tells about a path, as Docker's API does: the link itself, and where it
// leads at last. Error: one that is fs.ErrNotExist.
func (t *Tree) Stat(p string) (container.PathStat, error) {
	fd, st, err := t.find(p)
	if err != nil {
		return container.PathStat{}, err
	}
	defer unix.Close(fd)
	s := container.PathStat{Name: path.Base(Clean(p)), Size: st.Size, Mode: modeOf(&st), Mtime: time.Unix(st.Mtim.Unix())}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if s.LinkTarget, err = t.follow(p); err != nil {
			return s, err
		}
	}
	return s, nil
}

func modeOf(st *unix.Stat_t) fs.FileMode {
	mode := fs.FileMode(st.Mode & 0o777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if st.Mode&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

// follow is where a path leads, as far as it does: for people and clients to
// read, not to be opened without another resolution.
func (t *Tree) follow(p string) (string, error) {
	return securejoin.SecureJoinVFS("/", p, links{t})
}

// links is what securejoin sees of a container.
type links struct{ t *Tree }

func (l links) Lstat(name string) (os.FileInfo, error) {
	fd, st, err := l.t.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	unix.Close(fd)
	return info{name: path.Base(name), st: st}, nil
}

func (l links) Readlink(name string) (string, error) {
	fd, _, err := l.t.find(name)
	if err == nil {
		defer unix.Close(fd)
		b := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(fd, "", b); err == nil {
			return string(b[:n]), nil
		}
	}
	return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
}

type info struct {
	name string
	st   unix.Stat_t
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.st.Size }
func (i info) Mode() fs.FileMode  { return modeOf(&i.st) }
func (i info) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }
func (i info) IsDir() bool        { return i.Mode().IsDir() }
func (i info) Sys() any           { return nil }

// Explain says what is wrong with a path of a container, in Docker's words; what
// has words already keeps them.
func Explain(name, p string, err error) error {
	switch {
	case err == nil, errdefs.IsInvalidArgument(err), errdefs.IsNotFound(err), errdefs.IsConflict(err):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("Could not find the file %s in container %s", p, name))
	case errors.Is(err, unix.ENOTDIR):
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s in container %s: not a directory", p, name))
	case errors.Is(err, unix.ELOOP):
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s in container %s: too many links lead to each other", p, name))
	}
	return fmt.Errorf("%s in container %s: %w", p, name, err)
}
