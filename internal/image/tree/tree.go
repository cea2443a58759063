// Package tree tells whether the files of an unpacked layer are still what they
// were: it records them, one line for each, and digests the records.
//
// A record holds the path below the layer's folder, the kind, permissions,
// owner, extended attributes, and by kind: a file's size, time of change and
// content; a symbolic link's target; a device's number; for a further hard link
// to a file only the path of the first. Records stand in the order of the walk:
// a folder, then all below it, names sorted by their bytes.
//
// Content is digested in blocks, those that are all zero left out, so that
// holes cost nothing and are equal to zeros.
//
// Left out is what changes though the layer does not: times of folders, links
// and devices, security labels, and what overlay notes for itself.
package tree

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hezi/internal/disk"
)

// Kinds of entries.
const (
	Folder   = 'd'
	File     = 'f'
	Symlink  = 'l'
	HardLink = 'h'
	Char     = 'c'
	Block    = 'b'
	Pipe     = 'p'
	Socket   = 's'
)

// Entry is one thing in a layer.
type Entry struct {
	Path    string // slashes between names; "." is the layer's own folder
	Kind    byte
	Mode    uint32 // permissions, with setuid, setgid and sticky
	UID     uint32
	GID     uint32
	Size    int64  // of a File, bytes
	Time    int64  // of a File: its last change, nanoseconds
	Device  uint64 // of Char and Block
	Content [sha256.Size]byte
	Target  string  // of Symlink and HardLink
	Xattrs  []Xattr // sorted by name
}

// Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// Pace is called after each piece of work with the bytes that were read, and
// may wait. Its error ends the walk.
type Pace func(n int) error

// Sum digests the tree below dir. The records go to list, too, unless it is nil.
func Sum(ctx context.Context, dir string, pace Pace, list io.Writer) (digest.Digest, error) {
	sum := sha256.New()
	out := io.Writer(sum)
	if list != nil {
		out = io.MultiWriter(sum, list)
	}
	var line []byte
	err := Walk(ctx, dir, pace, func(e *Entry) error {
		line = e.Append(line[:0])
		_, err := out.Write(line)
		return err
	})
	if err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}

// Walk calls f with every entry below dir, in the order of records. The entry
// is valid during the call. It follows no symbolic link.
func Walk(ctx context.Context, dir string, pace Pace, f func(*Entry) error) error {
	w := &walker{ctx: ctx, pace: pace, f: f, links: map[inode]string{}, data: sha256.New(), runs: sha256.New(), buf: make([]byte, blockSize)}
	if w.pace == nil {
		w.pace = func(int) error { return nil }
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	e := &Entry{Path: ".", Kind: Folder, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	var err error
	if e.Xattrs, err = xattrs(func(b []byte) (int, error) { return unix.Llistxattr(dir, b) }, func(n string, b []byte) (int, error) { return unix.Lgetxattr(dir, n, b) }); err != nil {
		return &os.PathError{Op: "read the attributes of", Path: dir, Err: err}
	}
	if err := f(e); err != nil {
		return err
	}
	return disk.Walk(ctx, dir, func(d *disk.Entry) error {
		if err := w.entry(d); err != nil {
			return fmt.Errorf("%s/%s: %w", dir, d.Path, err)
		}
		return w.pace(0)
	})
}

const (
	blockSize = 128 << 10
	zeroBlock = 4 << 10 // what is left out of contents when it is zero
)

type inode struct{ dev, ino uint64 }

type walker struct {
	ctx   context.Context
	pace  Pace
	f     func(*Entry) error
	links map[inode]string // first paths of files with several
	data  hash.Hash
	runs  hash.Hash
	buf   []byte
}

func (w *walker) entry(d *disk.Entry) (err error) {
	st := &d.Stat
	e := &Entry{Path: d.Path, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := inode{st.Dev, st.Ino}
		if first, ok := w.links[key]; ok {
			return w.f(&Entry{Path: d.Path, Kind: HardLink, Target: first})
		}
		w.links[key] = d.Path
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Kind, e.Size, e.Time = File, st.Size, st.Mtim.Nano()
		return w.file(d.Dir, d.Name, e, st)
	case unix.S_IFDIR:
		e.Kind = Folder
	case unix.S_IFLNK:
		e.Kind, e.Mode = Symlink, 0
		if e.Target, err = readlink(d.Dir, d.Name); err != nil {
			return err
		}
	case unix.S_IFCHR:
		e.Kind, e.Device = Char, st.Rdev
	case unix.S_IFBLK:
		e.Kind, e.Device = Block, st.Rdev
	case unix.S_IFIFO:
		e.Kind = Pipe
	case unix.S_IFSOCK:
		e.Kind = Socket
	}
	where := fmt.Sprintf("/proc/self/fd/%d/%s", d.Dir, d.Name)
	e.Xattrs, err = xattrs(func(b []byte) (int, error) { return unix.Llistxattr(where, b) }, func(n string, b []byte) (int, error) { return unix.Lgetxattr(where, n, b) })
	if err != nil {
		return err
	}
	return w.f(e)
}

func readlink(fd int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// file completes the entry of a regular file.
func (w *walker) file(fd int, name string, e *Entry, st *unix.Stat_t) error {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	in, err := unix.Openat(fd, name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		in, err = unix.Openat(fd, name, flags, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(in)
	e.Xattrs, err = xattrs(func(b []byte) (int, error) { return unix.Flistxattr(in, b) }, func(n string, b []byte) (int, error) { return unix.Fgetxattr(in, n, b) })
	if err != nil {
		return err
	}
	if err := w.content(in, e, st.Blocks*512 < st.Size); err != nil {
		return err
	}
	return w.f(e)
}

// content digests what is not zero, and beside it where that is.
func (w *walker) content(in int, e *Entry, holes bool) error {
	c := contents{data: w.data, runs: w.runs}
	c.data.Reset()
	c.runs.Reset()
	for at := int64(0); at < e.Size; {
		if holes {
			data, err := unix.Seek(in, at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break // a hole up to the end
			}
			if err == nil {
				at = data &^ (zeroBlock - 1)
			}
		}
		n, err := unix.Pread(in, w.buf, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		c.add(w.buf[:n], at)
		at += int64(n)
		if err := w.pace(n); err != nil {
			return err
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
	}
	e.Content = c.sum()
	return nil
}

// contents is the digest of a file's content: of all blocks that are not zero,
// and of the list of their runs. Where reads begin and end makes no difference.
type contents struct {
	data, runs hash.Hash
	from, to   int64 // the present run
}

var zeros [zeroBlock]byte

func (c *contents) add(b []byte, at int64) {
	from := 0
	for i := 0; i < len(b); i += zeroBlock {
		piece := b[i:min(i+zeroBlock, len(b))]
		if !bytes.Equal(piece, zeros[:len(piece)]) {
			continue
		}
		c.run(b[from:i], at+int64(from))
		from = i + len(piece)
	}
	c.run(b[from:], at+int64(from))
}

func (c *contents) run(b []byte, at int64) {
	if len(b) == 0 {
		return
	}
	if at != c.to {
		c.end()
		c.from = at
	}
	c.data.Write(b)
	c.to = at + int64(len(b))
}

func (c *contents) end() {
	if c.from == c.to {
		return
	}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(c.from))
	binary.LittleEndian.PutUint64(b[8:], uint64(c.to))
	c.runs.Write(b[:])
}

func (c *contents) sum() [sha256.Size]byte {
	c.end()
	return sha256.Sum256(c.runs.Sum(c.data.Sum(nil)))
}

// xattrs reads those that belong to the layer.
func xattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]Xattr, error) {
	names, err := grow(list)
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !kept(name) {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return get(name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, Xattr{name, string(value)})
	}
	slices.SortFunc(out, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// grow calls read with a buffer that is large enough (xattr(7): 64 KiB at most
// on most file systems).
func grow(read func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	b := small[:]
	for {
		n, err := read(b)
		if errors.Is(err, unix.ERANGE) && len(b) < 1<<20 {
			b = make([]byte, 4*len(b))
			continue
		}
		if err != nil {
			return nil, err
		}
		return slices.Clone(b[:n]), nil
	}
}

// kept says whether an attribute is the layer's: labels of security modules
// are the host's, and most of overlay's say where a file was copied from.
func kept(name string) bool {
	if label, ok := strings.CutPrefix(name, "security."); ok {
		return label == "capability"
	}
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if what, ok := strings.CutPrefix(name, prefix); ok {
			switch what {
			case "opaque", "whiteout", "redirect", "metacopy":
				return true
			}
			return false
		}
	}
	return true
}
