package cp

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// unpacking writes an archive below a directory by Docker's rules. Every file is
// made and none that is there is opened: somebody else may put a FIFO in its
// place, whose opening never ends, or a device.
type unpacking struct {
	root      *os.Root
	overwrite bool
	self      bool
	owner     *[2]int
	ids       user.IdentityMapping
	folders   []*tar.Header // whose times are set when all is in them
}

const xattrRecord = "SCHILY.xattr."

func (u *unpacking) all(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		if name == "." && !(u.self && h.Typeflag == tar.TypeDir) {
			continue
		}
		if !filepath.IsLocal(name) {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the archive has a name that leads out of it: %q", h.Name))
		}
		h.Name = name
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
	for _, h := range u.folders {
		if err := u.root.Chtimes(h.Name, h.ModTime, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacking) entry(h *tar.Header, body io.Reader) error {
	there, err := u.root.Lstat(h.Name)
	isDir := err == nil && there.IsDir()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := u.root.MkdirAll(path.Dir(h.Name), 0o755); err != nil {
			return err
		}
	case err != nil:
		return err
	case isDir && h.Typeflag == tar.TypeDir:
	case !u.overwrite && isDir:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot overwrite directory %q with non-directory", h.Name))
	case !u.overwrite && h.Typeflag == tar.TypeDir:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot overwrite non-directory %q with directory", h.Name))
	default:
		if err := u.root.RemoveAll(h.Name); err != nil {
			return err
		}
	}
	uid, gid := h.Uid, h.Gid
	if u.owner != nil {
		uid, gid = u.owner[0], u.owner[1]
	} else if uid, gid, err = u.ids.ToHost(uid, gid); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s belongs to %d:%d, which the container has no ids for: %v", h.Name, h.Uid, h.Gid, err))
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if !isDir {
			if err := u.root.Mkdir(h.Name, 0o700); err != nil {
				return err
			}
		}
		u.folders = append(u.folders, h)
		return u.finish(h, uid, gid, os.O_RDONLY|unix.O_DIRECTORY, nil)
	case tar.TypeReg:
		return u.finish(h, uid, gid, os.O_WRONLY|os.O_CREATE|os.O_EXCL, body)
	case tar.TypeLink:
		err := u.root.Link(path.Clean(strings.TrimLeft(h.Linkname, "/")), h.Name)
		if errors.Is(err, fs.ErrNotExist) {
			err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is a hard link to %s, which is not there", h.Name, h.Linkname))
		}
		return err
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return u.root.Lchown(h.Name, uid, gid)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		return u.node(h, uid, gid)
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is of a kind that cannot be unpacked: %q", h.Name, h.Typeflag))
}

// finish opens a directory, or makes a file and writes it, and gives it what the
// header says.
func (u *unpacking) finish(h *tar.Header, uid, gid, flags int, body io.Reader) (err error) {
	f, err := u.root.OpenFile(h.Name, flags|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if body != nil {
		if _, err := io.Copy(f, body); err != nil {
			return err
		}
	}
	fd := int(f.Fd())
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return &fs.PathError{Op: "chown", Path: h.Name, Err: err}
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok {
			if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && !errors.Is(err, unix.EPERM) {
				return &fs.PathError{Op: "set the attribute " + name + " of", Path: h.Name, Err: err}
			}
		}
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil { // after the owner, which takes setuid away
		return &fs.PathError{Op: "chmod", Path: h.Name, Err: err}
	}
	if body == nil {
		return nil
	}
	return u.root.Chtimes(h.Name, h.ModTime, h.ModTime)
}

func (u *unpacking) node(h *tar.Header, uid, gid int) error {
	dir, err := u.root.OpenFile(path.Dir(h.Name), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	at, base := int(dir.Fd()), path.Base(h.Name)
	err = unix.Mknodat(at, base, kind|uint32(h.Mode)&0o7777, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	if err == nil {
		err = unix.Fchownat(at, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return &fs.PathError{Op: "make", Path: h.Name, Err: err}
	}
	return nil
}
