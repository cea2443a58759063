package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tar writes all below a directory as an archive, as Docker's export does: in
// the order of names, without sockets, hard links once. Names are never
// followed: what changes the tree meanwhile cannot lead out of it. A file that
// goes away is left out; one that shrinks is filled up with zeros.
func Tar(ctx context.Context, root *os.File, w io.Writer) error {
	a := newTarring(ctx, w)
	fd, err := unix.Dup(int(root.Fd()))
	if err != nil {
		return fmt.Errorf("read the file system: %w", err)
	}
	if err := a.directory(fd, ""); err != nil {
		return err
	}
	return a.w.Close()
}

func newTarring(ctx context.Context, w io.Writer) *tarring {
	return &tarring{ctx: ctx, w: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, 256<<10)}
}

// TarEntry is Tar of one entry of a directory; base "" is the directory itself,
// named prefix, as are all in it. What is mounted there belongs to it, but for the
// insides of the kernel's file systems. owners translates the owners of files;
// nil leaves them.
func TarEntry(ctx context.Context, dir *os.File, base, prefix string, owners func(uid, gid uint32) (uint32, uint32), w io.Writer) error {
	a := newTarring(ctx, w)
	a.mounts, a.owners = true, owners
	var err error
	if base == "" {
		a.prefix = strings.TrimSuffix(prefix, "/") + "/"
		err = a.folder(int(dir.Fd()), ".", &tar.Header{Format: tar.FormatPAX})
	} else {
		err = a.entry(int(dir.Fd()), base, base)
	}
	if err != nil {
		return err
	}
	return a.w.Close()
}

type inode struct{ dev, ino uint64 }

type tarring struct {
	ctx   context.Context
	w     *tar.Writer
	links map[inode]string // files with several names, by the first
	buf   []byte

	shallow bool // directories without what is in them
	depth   int  // of the directory that is read

	prefix string // of all names, with a slash at its end
	mounts bool   // what is mounted in the tree belongs to it
	owners func(uid, gid uint32) (uint32, uint32)

	names, value []byte // of attributes
}

// fail names what could not be read.
func fail(name string, err error) error {
	return fmt.Errorf("read /%s: %w", name, err)
}

// gone says whether something was removed, or replaced, since it was listed.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENXIO)
}

// directory writes what is in a directory, and closes it.
func (a *tarring) directory(fd int, name string) error {
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if a.depth++; a.depth > maxDepth {
		return tooDeep(name)
	}
	defer func() { a.depth-- }()
	list, err := dir.Readdirnames(-1)
	if err != nil && !gone(err) {
		return fail(name, err)
	}
	slices.Sort(list)
	for _, base := range list {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if err := a.entry(fd, base, path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

// entry writes one entry of a directory, with all below it.
func (a *tarring) entry(dir int, base, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if gone(err) {
			return nil
		}
		return fail(name, err)
	}
	h := &tar.Header{Name: name, Format: tar.FormatPAX}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return a.folder(dir, base, h)
	case unix.S_IFREG:
		return a.file(dir, base, h)
	case unix.S_IFLNK:
		target, err := readlink(dir, base, st.Size)
		if err != nil {
			if gone(err) || errors.Is(err, unix.EINVAL) {
				return nil
			}
			return fail(name, err)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default: // a socket is nothing without the process that listens
		return nil
	}
	a.describe(h, &st)
	a.ofEntry(h, dir, base)
	a.linked(h, &st)
	return a.write(h)
}

// describe fills what all kinds have. Times are whole seconds, as Docker's are.
func (a *tarring) describe(h *tar.Header, st *unix.Stat_t) {
	h.Mode = int64(st.Mode & 0o7777)
	uid, gid := st.Uid, st.Gid
	if a.owners != nil {
		uid, gid = a.owners(uid, gid)
	}
	h.Uid, h.Gid = int(uid), int(gid)
	h.ModTime = time.Unix(st.Mtim.Sec, 0)
}

// linked makes an entry a hard link if its file has been written by another
// name.
func (a *tarring) linked(h *tar.Header, st *unix.Stat_t) bool {
	if st.Nlink < 2 || h.Typeflag == tar.TypeDir {
		return false
	}
	id := inode{st.Dev, st.Ino}
	first, ok := a.links[id]
	if !ok {
		a.links[id] = h.Name
		return false
	}
	h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
	return true
}

func (a *tarring) write(h *tar.Header) error {
	if a.prefix != "" {
		h.Name = a.prefix + h.Name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = a.prefix + h.Linkname
		}
	}
	if err := a.w.WriteHeader(h); err != nil {
		return fmt.Errorf("write /%s into the archive: %w", h.Name, err)
	}
	return nil
}

// folder writes a directory and what is in it. It enters no other mount, unless
// mounts belong to the tree.
func (a *tarring) folder(dir int, base string, h *tar.Header) error {
	name := h.Name
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	if !a.mounts {
		how.Resolve |= unix.RESOLVE_NO_XDEV
	}
	fd, err := unix.Openat2(dir, base, &how)
	if err != nil {
		if gone(err) || errors.Is(err, unix.EXDEV) {
			return nil
		}
		return fail(name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return fail(name, err)
	}
	h.Typeflag, h.Name = tar.TypeDir, strings.TrimPrefix(name+"/", "/")
	a.describe(h, &st)
	a.ofOpen(h, fd)
	if err := a.write(h); err != nil || a.shallow || a.mounts && base != "." && ofKernel(fd) {
		unix.Close(fd)
		return err
	}
	return a.directory(fd, name)
}

// file writes a regular file: as many bytes as it has when it is opened.
func (a *tarring) file(dir int, base string, h *tar.Header) error {
	var st unix.Stat_t
	f, err := openRegular(dir, base, &st)
	if err != nil {
		if gone(err) {
			return nil
		}
		return fail(h.Name, err)
	}
	defer f.Close()
	fd := int(f.Fd())
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	a.describe(h, &st)
	a.ofOpen(h, fd)
	if a.linked(h, &st) {
		return a.write(h)
	}
	if a.mounts && st.Size == 0 && ofKernel(fd) {
		return a.report(f, h)
	}
	if err := a.write(h); err != nil {
		return err
	}
	return a.content(f, h)
}

// maxReport bounds what is read of a file that has no size until it is read.
const maxReport = 4 << 20

// report writes a file that the kernel makes up when it is read.
func (a *tarring) report(f *os.File, h *tar.Header) error {
	b, err := io.ReadAll(io.LimitReader(f, maxReport))
	if err != nil {
		return fail(h.Name, err)
	}
	h.Size = int64(len(b))
	if err := a.write(h); err != nil {
		return err
	}
	_, err = a.w.Write(b)
	return err
}

// openRegular opens a file to be read, and nothing that is not one: to open a
// device may be to use it. What is something else, also by now, is gone.
func openRegular(dir int, base string, st *unix.Stat_t) (*os.File, error) {
	at, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	if err := unix.Fstat(at, st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.ENOENT
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

// ofKernel says whether a file system shows what the kernel makes up.
func ofKernel(fd int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return false
	}
	switch st.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.SECURITYFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.BPF_FS_MAGIC, 0x19800202: // POSIX message queues, ipc/mqueue.c
		return true
	}
	return false
}

func (a *tarring) content(f *os.File, h *tar.Header) error {
	for left := h.Size; left > 0; {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(a.buf[:min(int64(len(a.buf)), left)])
		switch {
		case errors.Is(err, io.EOF):
			n = int(min(int64(len(a.buf)), left))
			clear(a.buf[:n])
		case err != nil:
			return fail(h.Name, err)
		}
		if _, err := a.w.Write(a.buf[:n]); err != nil {
			return fmt.Errorf("write /%s into the archive: %w", h.Name, err)
		}
		left -= int64(n)
	}
	return nil
}

func readlink(dir int, base string, size int64) (string, error) {
	for n := max(size, 255) + 1; n <= 1<<16; n *= 2 {
		b := make([]byte, n)
		got, err := unix.Readlinkat(dir, base, b)
		if err != nil {
			return "", err
		}
		if got < len(b) {
			return string(b[:got]), nil
		}
	}
	return "", unix.ENAMETOOLONG
}

// maxAttribute is the kernel's limit for one extended attribute (xattr(7)).
const maxAttribute = 64 << 10

// travels says whether an extended attribute means something elsewhere: file
// capabilities, access lists, and users' own.
func travels(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_") ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// attributes notes the extended attributes that travel. list and get are system
// calls.
func (a *tarring) attributes(h *tar.Header, list func([]byte) (int, error), get func(string, []byte) (int, error)) {
	if a.names == nil {
		a.names, a.value = make([]byte, maxAttribute), make([]byte, maxAttribute)
	}
	n, err := list(a.names)
	if err != nil || n == 0 {
		return // there are none, or the file system has none
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(a.names[:n]), "\x00"), "\x00") {
		if !travels(name) {
			continue
		}
		n, err := get(name, a.value)
		if err != nil || strings.Contains(name, "=") { // PAX has no way to write that
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(a.value[:n])
	}
}

// ofOpen are the attributes of an open file.
func (a *tarring) ofOpen(h *tar.Header, fd int) {
	a.attributes(h, func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

// ofEntry are those of what is not opened.
func (a *tarring) ofEntry(h *tar.Header, dir int, base string) {
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir, base)
	a.attributes(h, func(b []byte) (int, error) { return unix.Llistxattr(at, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(at, name, b) })
}
