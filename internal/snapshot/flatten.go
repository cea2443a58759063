package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// errRedirects is of layers that name directories of the layers below by their
// paths, or have only the attributes of a file: those are the kernel's to read.
var errRedirects = errors.New("the layer has directories that were renamed in place")

// Flatten makes one layer of two that follow each other in chains, and returns its
// name: what a mount of it shows is what a mount of the two shows. Both must be saved
// ones. Files are linked, not copied; the two stay. done is false where that
// cannot be, which loses nothing.
func (s *Store) Flatten(ctx context.Context, id, above, below string) (layer string, done bool, err error) {
	if layer, err = s.grow(id, above); err != nil {
		return "", false, err
	}
	m := merging{ctx: ctx}
	err = m.directory(s.upper(id, layer), s.upper(id, above), s.upper(id, below))
	if err == nil {
		return layer, true, nil
	}
	if errors.Is(err, errRedirects) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.ENAMETOOLONG) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("make one layer of two of container %s: %w", id, err)
	}
	return "", false, errors.Join(err, s.discard(id, layer))
}

// merging writes two layers into one. Nobody changes what it reads, so paths are
// good enough; names are never followed.
type merging struct{ ctx context.Context }

// directory fills to, which is empty, with what above has, and what below has and
// above does not hide; below is "" without one.
func (m merging) directory(to, above, below string) error {
	names, err := entriesOf(above)
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, name := range names {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		here[name] = true
		lower := ""
		if below != "" {
			lower = filepath.Join(below, name)
		}
		if err := m.entry(filepath.Join(to, name), filepath.Join(above, name), lower); err != nil {
			return err
		}
	}
	if below == "" {
		return m.finish(to, above)
	}
	if names, err = entriesOf(below); err != nil {
		return err
	}
	for _, name := range names {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		if here[name] {
			continue
		}
		if err := m.entry(filepath.Join(to, name), filepath.Join(below, name), ""); err != nil {
			return err
		}
	}
	return m.finish(to, above)
}

// entry puts what lies uppermost at a name into to.
func (m merging) entry(to, above, below string) error {
	var st, under unix.Stat_t
	if err := unix.Lstat(above, &st); err != nil {
		return err
	}
	if err := isPlain(above, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return os.Link(above, to)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if below == "" || opaque(above) {
		return m.directory(to, above, "")
	}
	if err := unix.Lstat(below, &under); errors.Is(err, unix.ENOENT) {
		return m.directory(to, above, "")
	} else if err != nil {
		return err
	}
	if err := isPlain(below, &under); err != nil {
		return err
	}
	merges := under.Mode&unix.S_IFMT == unix.S_IFDIR
	if !merges || opaque(below) { // a whiteout or a file hides what is below it, too
		if err := unix.Lsetxattr(to, overlayPrefix+"opaque", []byte("y"), 0); err != nil {
			return err
		}
	}
	if !merges {
		below = ""
	}
	return m.directory(to, above, below)
}

// finish gives a directory what it is besides its entries: last, for making those
// changes its times.
func (m merging) finish(to, like string) error {
	var st unix.Stat_t
	if err := unix.Lstat(like, &st); err != nil {
		return err
	}
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyAttributes(to, like, true); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// isPlain refuses what only the kernel can follow (Linux,
// Documentation/filesystems/overlayfs.rst, "Redirects" and "Metadata only copy up").
func isPlain(path string, st *unix.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil
	}
	for _, name := range []string{"redirect", "metacopy", "opaque"} {
		var value [2]byte
		n, err := unix.Lgetxattr(path, overlayPrefix+name, value[:])
		switch {
		case errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || err == nil && name == "opaque" && string(value[:n]) == "y":
		case err == nil || errors.Is(err, unix.ERANGE):
			return errRedirects
		default:
			return err
		}
	}
	return nil
}

func opaque(dir string) bool {
	b := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, overlayPrefix+"opaque", b)
	return err == nil && n == 1 && b[0] == 'y'
}

func entriesOf(dir string) ([]string, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	for {
		list, err := f.Readdirnames(4096)
		all = append(all, list...)
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
