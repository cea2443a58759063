package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// alone unpacks a layer into a fresh folder, without the layers below, in
// overlay's form of whiteouts. Nearly every layer has each entry after the
// folder that it is in: then no path leads through a link, and an entry takes
// the four or five calls that it needs. What is otherwise ends with
// ErrNeedsParents, and containerd's archive unpacks it.
type alone struct {
	root   string
	fd     int  // of root
	bottom bool // nothing is below
	dirs   map[string]int
	// hidden by whiteouts; what the layer itself has of these names stays.
	hidden map[string]struct{}
	names  int // bytes that the maps hold

	cwd   string // the folder that cwdFD is open on; "" is root
	cwdFD int
	buf   []byte
	times []dirTime
}

type dirTime struct {
	name string
	ts   [2]unix.Timespec
}

// maxNames bounds what is kept of a layer's names, in bytes: half a million
// folders.
var maxNames = 64 << 20

const (
	copySize = 256 << 10
	// earlyFlush is from which size, in bytes, the kernel is told to begin
	// writing a file while the rest of the layer is still unpacked.
	earlyFlush = 1 << 20
)

// umask of the process, which no part of hezid changes (proc(5), Linux 4.7).
var umask = sync.OnceValue(func() uint32 {
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "Umask:"); ok {
				if m, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
					return uint32(m)
				}
			}
		}
	}
	return 0o777
})

// Alone unpacks a plain layer archive into root, which is empty, in overlay's
// form of whiteouts; bottom says that no layer is below. It returns
// ErrNeedsParents for what Apply must do.
func Alone(ctx context.Context, root string, bottom bool, r io.Reader) (err error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(fd)
	a := &alone{root: root, fd: fd, bottom: bottom, dirs: make(map[string]int), hidden: make(map[string]struct{}), cwdFD: -1, buf: make([]byte, copySize)}
	defer a.leave()
	t := tar.NewReader(r)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a.finish()
		}
		if err != nil {
			return err
		}
		if err := a.entry(h, t); err != nil {
			return err
		}
	}
}

// entry makes one entry of the archive.
func (a *alone) entry(h *tar.Header, body io.Reader) error {
	if ok, err := clean(h); !ok {
		return err
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return nil // as containerd has it: the root's rights are the store's
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	gid, err := a.enter(dir)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(dir, base, h)
	}
	if err := a.place(name, base, h); err != nil {
		return err
	}
	return a.create(name, base, gid, h, body)
}

// enter opens the folder of the next entry, and returns its group.
func (a *alone) enter(dir string) (gid int, err error) {
	if dir != "" {
		var ok bool
		if gid, ok = a.dirs[dir]; !ok {
			return 0, ErrNeedsParents
		}
	}
	if a.cwdFD >= 0 && a.cwd == dir {
		return gid, nil
	}
	a.leave()
	where := dir
	if dir == "" {
		where = "."
	}
	fd, err := unix.Openat2(a.fd, where, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.6; nobody else is in this folder
		fd, err = unix.Openat(a.fd, where, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: a.path(dir), Err: err}
	}
	a.cwd, a.cwdFD = dir, fd
	return gid, nil
}

func (a *alone) leave() {
	if a.cwdFD >= 0 {
		unix.Close(a.cwdFD)
		a.cwdFD = -1
	}
}

func (a *alone) path(name string) string { return path.Join(a.root, name) }

// whiteout turns a whiteout into overlay's. It speaks of the layers below only.
func (a *alone) whiteout(dir, base string, h *tar.Header) error {
	if base == whiteoutOpaque {
		switch {
		case a.bottom:
			return nil
		case dir == "": // the root of an overlay is always merged
			return ErrNeedsParents
		}
		return a.failed("hide what is below", dir, unix.Setxattr(a.path(dir), "trusted.overlay.opaque", []byte{'y'}, 0))
	}
	hidden := base[len(whiteoutPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it has a whiteout without a name: %q", path.Join(dir, base)))
	}
	name := path.Join(dir, hidden)
	if _, ok := a.dirs[name]; ok && !a.bottom {
		return ErrNeedsParents // hidden and made anew: overlay would merge the two
	}
	if a.bottom {
		return nil
	}
	if err := a.remember(name); err != nil {
		return err
	}
	a.hidden[name] = struct{}{}
	err := unix.Mknodat(a.cwdFD, hidden, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil // the layer's own
	}
	if err != nil {
		return a.failed("hide", name, err)
	}
	return a.own(hidden, name, h)
}

func (a *alone) own(base, name string, h *tar.Header) error {
	return a.failed("change the owner of", name, unix.Fchownat(a.cwdFD, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW))
}

func (a *alone) failed(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: what, Path: a.path(name), Err: err}
}

// remember counts a name that is kept until the end of the layer.
func (a *alone) remember(name string) error {
	if a.names += len(name) + 64; a.names > maxNames { // 64: what a map needs beside the text
		return tooManyNames()
	}
	return nil
}

func tooManyNames() error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it has more folders and whiteouts than fit in %d MiB: no image needs so many", maxNames>>20))
}

// place looks whether the entry replaces something.
func (a *alone) place(name, base string, h *tar.Header) error {
	_, isDir := a.dirs[name]
	_, isHidden := a.hidden[name]
	switch {
	case h.Typeflag == tar.TypeDir && isHidden, h.Typeflag != tar.TypeDir && isDir:
		return ErrNeedsParents // overlay would merge it; what follows may go through it
	case isHidden: // a file in the place of one below needs no whiteout
		delete(a.hidden, name)
		return a.failed("replace", name, unix.Unlinkat(a.cwdFD, base, 0))
	}
	return nil
}

// create makes the entry with all that its header says.
func (a *alone) create(name, base string, parentGID int, h *tar.Header, body io.Reader) error {
	mode := uint32(h.Mode & 0o7777)
	given := mode &^ umask() // what a creation makes of it
	switch h.Typeflag {
	case tar.TypeDir:
		if _, ok := a.dirs[name]; ok {
			given = ^uint32(0)
		} else if err := a.again(base, name, func() error { return unix.Mkdirat(a.cwdFD, base, mode) }); err != nil {
			return err
		}
	case tar.TypeReg, 0, tar.TypeGNUSparse: // 0: archives of before POSIX
		if err := a.file(base, name, mode, h, body); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := a.again(base, name, func() error { return unix.Symlinkat(h.Linkname, a.cwdFD, base) }); err != nil {
			return err
		}
		given = mode
	case tar.TypeLink:
		if err := a.link(base, name, h); err != nil {
			return err
		}
		given = ^uint32(0)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if h.Typeflag != tar.TypeFifo && userns.RunningInUserNS() {
			return nil // no device can be made there, and none be used
		}
		if err := a.device(base, name, mode, h); err != nil {
			return err
		}
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is of a type that no layer has: %q", h.Name, h.Typeflag))
	}
	return a.attributes(name, base, parentGID, mode, given, h)
}

// again makes a thing, in the place of another that the layer had.
func (a *alone) again(base, name string, f func() error) error {
	err := f()
	if errors.Is(err, unix.EEXIST) {
		if err = unix.Unlinkat(a.cwdFD, base, 0); err == nil {
			err = f()
		}
	}
	return a.failed("make", name, err)
}

func (a *alone) file(base, name string, mode uint32, h *tar.Header, body io.Reader) error {
	fd := -1
	err := a.again(base, name, func() (err error) {
		fd, err = unix.Openat(a.cwdFD, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&^0o7000)
		return err
	})
	if err != nil {
		return err
	}
	if err := a.fill(fd, name, h, body); err != nil {
		unix.Close(fd)
		return err
	}
	return a.failed("close", name, unix.Close(fd))
}

// fill writes a file's content. The holes of a sparse one stay holes.
func (a *alone) fill(fd int, name string, h *tar.Header, body io.Reader) error {
	sparse := h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != ""
	for at := int64(0); at < h.Size; {
		n, err := io.ReadFull(body, a.buf[:min(int64(len(a.buf)), h.Size-at)])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		at += int64(n)
		part := a.buf[:n]
		if sparse && isZero(part) {
			if _, err := unix.Seek(fd, int64(n), io.SeekCurrent); err != nil {
				return a.failed("write", name, err)
			}
			continue
		}
		for len(part) > 0 {
			m, err := unix.Write(fd, part)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return a.failed("write", name, err)
			}
			part = part[m:]
		}
	}
	if sparse {
		return a.failed("write", name, unix.Ftruncate(fd, h.Size))
	}
	if h.Size >= earlyFlush {
		_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) // a hint
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// link makes a hard link to what this layer has.
func (a *alone) link(base, name string, h *tar.Header) error {
	if err := inside(h.Linkname); err != nil {
		return err
	}
	target := strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
	if dir := path.Dir(target); dir != "." {
		if _, ok := a.dirs[dir]; !ok {
			return ErrNeedsParents
		}
	}
	if _, ok := a.hidden[target]; ok || target == "" || target == name {
		return ErrNeedsParents
	}
	err := a.again(base, name, func() error { return unix.Linkat(a.fd, target, a.cwdFD, base, 0) })
	if errors.Is(err, unix.EPERM) { // a link to a folder
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is a hard link to %q, which is none that can be linked to", h.Name, h.Linkname))
	}
	return err
}

func (a *alone) device(base, name string, mode uint32, h *tar.Header) error {
	if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q has a device number that cannot be: %d:%d", h.Name, h.Devmajor, h.Devminor))
	}
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	dev := 0
	if kind != unix.S_IFIFO {
		dev = int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	}
	return a.again(base, name, func() error { return unix.Mknodat(a.cwdFD, base, kind|mode, dev) })
}

// attributes gives an entry its owner, extended attributes, rights and times.
func (a *alone) attributes(name, base string, parentGID int, mode, given uint32, h *tar.Header) error {
	root := h.Uid == 0 && h.Gid == 0 && parentGID == 0 && os.Geteuid() == 0 && os.Getegid() == 0
	if !root || h.Typeflag == tar.TypeLink || given == ^uint32(0) {
		if err := a.own(base, name, h); err != nil {
			return err
		}
		if mode&0o6000 != 0 {
			given = ^uint32(0) // a change of the owner took these
		}
	}
	if err := a.xattrs(name, h); err != nil {
		return err
	}
	// Creations do not take setuid and the like from everywhere (open(2), mkdir(2)).
	if h.Typeflag != tar.TypeSymlink && (given != mode || mode&0o7000 != 0) {
		if err := a.chmod(base, name, mode, h); err != nil {
			return err
		}
	}
	ts := timesOf(h)
	if h.Typeflag == tar.TypeDir {
		if _, ok := a.dirs[name]; !ok {
			if err := a.remember(name); err != nil {
				return err
			}
		}
		a.dirs[name] = h.Gid
		a.times = append(a.times, dirTime{name: name, ts: ts}) // what comes into it changes its time
		return nil
	}
	return a.failed("set the times of", name, unix.UtimesNanoAt(a.cwdFD, base, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// chmod follows no link, but fchmodat(2) does: a hard link may be one to a
// symbolic link.
func (a *alone) chmod(base, name string, mode uint32, h *tar.Header) error {
	if h.Typeflag == tar.TypeLink {
		var st unix.Stat_t
		if err := unix.Fstatat(a.cwdFD, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return a.failed("change the rights of", name, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return nil
		}
	}
	return a.failed("change the rights of", name, unix.Fchmodat(a.cwdFD, base, mode, 0))
}

func (a *alone) xattrs(name string, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		key, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		if strings.HasPrefix(key, "trusted.") {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q has the attribute %s, which only the administrator of a machine may set", h.Name, key))
		}
		err := unix.Lsetxattr(a.path(name), key, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(key, "user.") && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			continue // this file system has none of these, or not for this type (xattr(7))
		}
		if err != nil {
			return a.failed("set "+key+" of", name, err)
		}
	}
	return nil
}

// timesOf are the times to set; what the kernel cannot keep is 1970.
func timesOf(h *tar.Header) [2]unix.Timespec {
	latest := h.ModTime
	if h.AccessTime.After(latest) {
		latest = h.AccessTime
	}
	return [2]unix.Timespec{timespec(latest), timespec(h.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return unix.Timespec{}
	}
	return unix.NsecToTimespec(t.UnixNano())
}

// finish sets the times of folders; of several entries for one the last counts.
func (a *alone) finish() error {
	a.leave()
	for i := range a.times {
		d := &a.times[i]
		if err := unix.UtimesNanoAt(a.fd, d.name, d.ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return a.failed("set the times of", d.name, err)
		}
	}
	return nil
}

// inside refuses a path that climbs out of the image.
func inside(name string) error {
	if c := path.Clean(name); c == ".." || strings.HasPrefix(c, "../") {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q leads out of the image", name))
	}
	return nil
}
