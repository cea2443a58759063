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
	"github.com/moby/go-archive"
	"golang.org/x/sys/unix"

	"hezi/internal/image/unpack"
)

// Options of an extraction.
type Options struct {
	Overwrite bool    // a directory may be replaced by something else, and the other way round
	Owner     *[2]int // of all that is made, as ids on the host; nil: the archive's
}

// here is the directory that is unpacked into.
const here = "."

// ErrReadOnly says that the file system at a path can only be read.
var ErrReadOnly = errors.New("the file system is read-only")

// Extract unpacks an archive, plain or compressed, into a directory. Links in it
// lead nowhere outside of the container; a path is never opened twice.
func (t *Tree) Extract(ctx context.Context, p string, r io.Reader, o Options) error {
	fd, err := openAt(int(t.Root.Fd()), Clean(p), unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errdefs.ErrInvalidArgument.WithMessage("extraction point is not a directory: " + p)
	}
	var where unix.Statfs_t
	if err := unix.Fstatfs(fd, &where); err != nil {
		return err
	}
	if where.Flags&unix.ST_RDONLY != 0 {
		return ErrReadOnly
	}
	plain, err := unpack.Decompress(reader{ctx, r})
	if err != nil {
		return broken(err)
	}
	defer plain.Close()
	options := &archive.TarOptions{NoOverwriteDirNonDir: !o.Overwrite, IDMap: t.IDs}
	if o.Owner != nil {
		options.ChownOpts, options.IDMap = &archive.ChownOpts{UID: o.Owner[0], GID: o.Owner[1]}, none
	}
	options, forget, err := archive.WithProcSelfFD(options) // in the container another /proc is in the way
	if err != nil {
		return err
	}
	defer forget()
	err = t.Do(func() error {
		if err := unix.Fchdir(fd); err != nil {
			return err
		}
		return archive.Unpack(plain, here, options)
	})
	if err == nil {
		_, err = io.Copy(io.Discard, plain) // to its end, or the client is cut off
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.EROFS):
		return ErrReadOnly
	case errors.Is(err, unix.EBUSY):
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("%s: something is mounted there in the container, which can be written to but not replaced: hezi exec -i CONTAINER sh -c 'cat > FILE'", said(err, p)))
	case unpack.Broken(err):
		return broken(err)
	case errors.As(err, new(*os.PathError)), errors.As(err, new(*os.LinkError)), errors.As(err, new(*os.SyscallError)), errors.As(err, new(unix.Errno)):
		return fmt.Errorf("%s: %w", said(err, p), unwrapped(err))
	}
	return errdefs.ErrInvalidArgument.WithMessage(said(err, p))
}

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
