package cp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/image/unpack"
)

// Options of an extraction.
type Options struct {
	Overwrite bool    // a directory may be replaced by something else, and the other way round
	Self      bool    // the directory itself gets what the archive says of it, too
	Owner     *[2]int // of all that is made, as ids on the host; nil: the archive's
}

// here is the directory that is unpacked into.
const here = "."

// ErrReadOnly says that the file system at a path can only be read.
var ErrReadOnly = errors.New("the file system is read-only")

// Extract unpacks an archive, plain or compressed, into a directory. Links in it
// lead nowhere outside of the container.
func (t *Tree) Extract(ctx context.Context, p string, r io.Reader, o Options) error {
	fd, err := destination(int(t.Root.Fd()), p) // to say what is wrong before anything is read
	if err != nil {
		return err
	}
	unix.Close(fd)
	plain, err := unpack.Decompress(reader{ctx, r})
	if err != nil {
		return broken(err)
	}
	defer plain.Close()
	u := unpacking{overwrite: o.Overwrite, self: o.Self, owner: o.Owner, ids: t.IDs}
	err = t.Do(func() error {
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(root)
		fd, err := destination(root, p) // again: below this root no device can be opened
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Fchdir(fd); err != nil {
			return err
		}
		if u.root, err = os.OpenRoot(here); err != nil {
			return err
		}
		defer u.root.Close()
		return u.all(plain)
	})
	if err == nil {
		_, err = io.Copy(io.Discard, plain) // to its end, or the client is cut off
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.EROFS), errors.Is(err, ErrReadOnly):
		return ErrReadOnly
	case errors.Is(err, unix.EBUSY):
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("%s: something is mounted there in the container, which can be written to but not replaced: hezi exec -i CONTAINER sh -c 'cat > FILE'", said(err, p)))
	case errdefs.IsInvalidArgument(err):
		return err
	case unpack.Broken(err):
		return broken(err)
	case errors.As(err, new(*os.PathError)), errors.As(err, new(*os.LinkError)), errors.As(err, new(*os.SyscallError)), errors.As(err, new(unix.Errno)):
		return &told{said(err, p), unwrapped(err)}
	}
	return errdefs.ErrInvalidArgument.WithMessage(said(err, p))
}

// destination opens a directory that can be written to, as a path.
func destination(root int, p string) (int, error) {
	fd, err := openAt(root, Clean(p), unix.O_PATH)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	var where unix.Statfs_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = unix.Fstatfs(fd, &where)
	}
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = errdefs.ErrInvalidArgument.WithMessage("extraction point is not a directory: " + p)
	case where.Flags&unix.ST_RDONLY != 0:
		err = ErrReadOnly
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// told is an error whose text has its cause already.
type told struct {
	text  string
	cause error
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.cause }

// said is an error's text with the path as the user knows it.
func said(err error, p string) string {
	return strings.ReplaceAll(err.Error(), strconv.Quote(here), strconv.Quote(Clean(p)))
}

// unwrapped is the kernel's own error.
func unwrapped(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func broken(err error) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the archive cannot be read: %v; it must be a tar archive, plain or compressed by gzip, bzip2, xz or zstd", err))
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
