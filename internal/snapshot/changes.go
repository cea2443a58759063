package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Kind says what became of a file.
type Kind int

// The kinds, with the numbers of Docker's API.
const (
	Modified Kind = iota
	Added
	Deleted
)

// Change is one file that a container has otherwise than its image.
type Change struct {
	Path string // from the root, with its slash
	Kind Kind
}

// Trees are the root directories of a container's file system, of its image's,
// and of the container's own layers, which say where to look: all that is
// found there is judged by what the kernel shows in the other two, so that
// whiteouts, opaque and redirected directories are the kernel's business. Without
// Upper all is compared, and what a container was furnished with (Store.Base) does
// not count.
type Trees struct {
	Merged, Lower *os.File
	Upper         []*os.File
}

// Changes tells what a container changed, in the order of names, a directory
// ahead of what is in it. A directory counts as modified if anything in it
// changed. Names are never followed, as in Tar.
func Changes(ctx context.Context, t Trees, tell func(Change) error) error {
	return walkChanges(ctx, t, func(_ int, name string, kind Kind) error { return tell(Change{Path: "/" + name, Kind: kind}) })
}

// TarChanges writes what a container changed as a layer (OCI image
// specification, layer.md): what is new or other in full, what is gone as a
// whiteout.
func TarChanges(ctx context.Context, t Trees, w io.Writer) error {
	a := newTarring(ctx, w)
	a.shallow = true
	err := walkChanges(ctx, t, func(dir int, name string, kind Kind) error {
		if kind == Deleted {
			return a.write(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), ".wh."+path.Base(name)), Format: tar.FormatPAX})
		}
		if strings.HasPrefix(path.Base(name), ".wh.") {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("/%s cannot be kept in an image, where a name that begins with .wh. says that a file was removed: rename it", name))
		}
		return a.entry(dir, path.Base(name), name)
	})
	if err != nil {
		return err
	}
	return a.w.Close()
}

// walkChanges calls visit with the open directory of the merged tree that has,
// or had, the file.
func walkChanges(ctx context.Context, t Trees, visit func(dir int, name string, kind Kind) error) error {
	c := comparing{ctx: ctx, visit: visit}
	c.furnished = len(t.Upper) == 0
	top := level{merged: int(t.Merged.Fd()), lower: int(t.Lower.Fd())}
	for _, f := range t.Upper {
		top.upper = append(top.upper, int(f.Fd()))
	}
	return c.directory(&top)
}

const none = -1

// level is one directory in the three trees. lower is none where the image has
// no such directory; upper is empty where all that is in it must be compared.
type level struct {
	parent        *level
	name          string
	merged, lower int
	upper         []int
	told          bool
	depth         int
}

// maxDepth bounds the descriptors and the memory that a container can make the
// engine hold: a path that is deeper is longer than the kernel takes (PATH_MAX).
const maxDepth = 2048

func tooDeep(name string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the container has more than %d directories in each other, below /%.60s…: remove them", maxDepth, name))
}

type comparing struct {
	ctx   context.Context
	visit func(dir int, name string, kind Kind) error

	furnished bool // the lowest layer is in the merged tree

	ours, theirs tarring // for their attributes
	a, b         []byte
}

// furniture says whether an entry is as in the lowest layer, that the image lacks.
func (c *comparing) furniture(name string, st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.furnished && slices.Contains(baseDirs, name)
	case unix.S_IFREG:
		return c.furnished && st.Size == 0 && slices.Contains(baseFiles, name)
	}
	return false
}

// tell visits a changed entry, after the directories that it makes changed.
func (c *comparing) tell(l *level, base string, kind Kind) error {
	if err := c.announce(l); err != nil {
		return err
	}
	return c.visit(l.merged, path.Join(l.name, base), kind)
}

func (c *comparing) announce(l *level) error {
	if l.parent == nil || l.told {
		return nil
	}
	l.told = true
	if err := c.announce(l.parent); err != nil {
		return err
	}
	return c.visit(l.parent.merged, l.name, Modified)
}

func (c *comparing) directory(l *level) error {
	names, err := l.names()
	if err != nil {
		return fail(l.name, err)
	}
	for _, base := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(l, base); err != nil {
			return err
		}
	}
	return nil
}

// names are what may differ in a directory.
func (l *level) names() ([]string, error) {
	all := map[string]bool{}
	from := []int{l.merged, l.lower}
	if len(l.upper) > 0 {
		from = l.upper
	}
	for _, fd := range from {
		if fd == none {
			continue
		}
		again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			if gone(err) {
				continue
			}
			return nil, err
		}
		dir := os.NewFile(uintptr(again), l.name)
		list, err := dir.Readdirnames(-1)
		dir.Close()
		if err != nil && !gone(err) {
			return nil, err
		}
		for _, n := range list {
			all[n] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// lookup reads what a name is in one tree; false: it is not there.
func lookup(dir int, base string, st *unix.Stat_t) (bool, error) {
	if dir == none {
		return false, nil
	}
	err := unix.Fstatat(dir, base, st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && gone(err) {
		return false, nil
	}
	return err == nil, err
}

func (c *comparing) entry(l *level, base string) error {
	var now, before unix.Stat_t
	name := path.Join(l.name, base)
	here, err := lookup(l.merged, base, &now)
	if err != nil {
		return fail(name, err)
	}
	was, err := lookup(l.lower, base, &before)
	if err != nil {
		return fail(name, err)
	}
	isDir, wasDir := here && now.Mode&unix.S_IFMT == unix.S_IFDIR, was && before.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case !here && !was:
		return nil
	case !here:
		return c.tell(l, base, Deleted)
	case !was && c.furniture(name, &now):
		if !isDir {
			return nil
		}
		return c.below(l, base, false, false)
	case !was:
		err = c.tell(l, base, Added)
	case isDir && wasDir:
		return c.both(l, base, &now, &before)
	default:
		var same bool
		if same, err = c.same(l, base, &now, &before); err == nil && !same {
			err = c.tell(l, base, Modified)
		}
	}
	if err != nil || !isDir {
		return err
	}
	return c.below(l, base, false, true) // all that is in it is new
}

// both compares a directory that was there before.
func (c *comparing) both(l *level, base string, now, before *unix.Stat_t) error {
	same, err := c.same(l, base, now, before)
	if err != nil {
		return err
	}
	if !same {
		if err := c.tell(l, base, Modified); err != nil {
			return err
		}
	}
	return c.below(l, base, true, !same)
}

// below goes into a directory.
func (c *comparing) below(l *level, base string, compare, told bool) error {
	next := &level{parent: l, name: path.Join(l.name, base), merged: none, lower: none, told: told, depth: l.depth + 1}
	if next.depth > maxDepth {
		return tooDeep(next.name)
	}
	defer func() {
		for _, fd := range append(next.upper, next.merged, next.lower) {
			if fd != none {
				unix.Close(fd)
			}
		}
	}()
	var err error
	if next.merged, err = enter(l.merged, base); err != nil || next.merged == none {
		return failAt(next.name, err)
	}
	if compare {
		if next.lower, err = enter(l.lower, base); err != nil {
			return failAt(next.name, err)
		}
		if next.upper, err = enterAll(l.upper, base); err != nil {
			return failAt(next.name, err)
		}
	}
	return c.directory(next)
}

func failAt(name string, err error) error {
	if err != nil {
		return fail(name, err)
	}
	return nil
}

// enter opens a directory of a directory; none: it is not there, is not one, or
// is another mount.
func enter(dir int, base string) (int, error) {
	if dir == none {
		return none, nil
	}
	fd, err := unix.Openat2(dir, base, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		if gone(err) || errors.Is(err, unix.EXDEV) {
			return none, nil
		}
		return none, err
	}
	return fd, nil
}

// enterAll opens a directory in the layers that have it; none of them where one does
// not show what is below it.
func enterAll(dirs []int, base string) (list []int, err error) {
	leave := func() {
		for _, fd := range list {
			unix.Close(fd)
		}
	}
	for _, dir := range dirs {
		fd, err := enter(dir, base)
		if err != nil {
			leave()
			return nil, err
		}
		if fd == none {
			continue
		}
		list = append(list, fd)
		if !merges(fd) {
			leave()
			return nil, nil
		}
	}
	return list, nil
}

// merges says whether a directory of an upper layer shows that of the same name
// below it (Linux, Documentation/filesystems/overlayfs.rst).
func merges(upper int) bool {
	b := make([]byte, 1)
	for _, prefix := range []string{"trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."} {
		if n, err := unix.Fgetxattr(upper, prefix+"opaque", b); err == nil && n == 1 && b[0] == 'y' {
			return false
		}
		if _, err := unix.Fgetxattr(upper, prefix+"redirect", nil); err == nil {
			return false
		}
	}
	return true
}

// same says whether an entry is what it was: a file that was opened for writing
// and written nothing is in the container's layer all the same.
func (c *comparing) same(l *level, base string, now, before *unix.Stat_t) (bool, error) {
	if now.Mode != before.Mode || now.Uid != before.Uid || now.Gid != before.Gid || now.Rdev != before.Rdev || now.Mtim != before.Mtim {
		return false, nil
	}
	kind := now.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && now.Size != before.Size {
		return false, nil
	}
	if !maps.Equal(c.attributes(&c.ours, l.merged, base), c.attributes(&c.theirs, l.lower, base)) {
		return false, nil
	}
	var err error
	same := true
	switch kind {
	case unix.S_IFREG:
		same, err = c.sameContent(l, base)
	case unix.S_IFLNK:
		var ours, theirs string
		if ours, err = readlink(l.merged, base, now.Size); err == nil {
			theirs, err = readlink(l.lower, base, before.Size)
		}
		same = ours == theirs
	}
	if err != nil && gone(err) { // it changes at this moment
		return false, nil
	}
	if err != nil {
		return false, fail(path.Join(l.name, base), err)
	}
	return same, nil
}

func (c *comparing) attributes(a *tarring, dir int, base string) map[string]string {
	var h tar.Header
	a.ofEntry(&h, dir, base)
	return h.PAXRecords
}

func (c *comparing) sameContent(l *level, base string) (bool, error) {
	var st unix.Stat_t
	ours, err := openRegular(l.merged, base, &st)
	if err != nil {
		return false, err
	}
	defer ours.Close()
	theirs, err := openRegular(l.lower, base, &st)
	if err != nil {
		return false, err
	}
	defer theirs.Close()
	if c.a == nil {
		c.a, c.b = make([]byte, 128<<10), make([]byte, 128<<10)
	}
	for {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		n, err := io.ReadFull(ours, c.a)
		m, err2 := io.ReadFull(theirs, c.b)
		if n != m || !bytes.Equal(c.a[:n], c.b[:m]) {
			return false, nil
		}
		for _, err := range []error{err, err2} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if err != nil || err2 != nil {
			return true, nil
		}
	}
}
