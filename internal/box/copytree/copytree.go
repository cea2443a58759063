// Package copytree copies what a directory holds into another, by several threads:
// owners, modes, times, extended attributes, hard links, holes; blocks are shared
// where the file system can.
//
// All goes by descriptors and names without links, and what is made was not there
// before, so nothing that somebody else does in either tree meanwhile leads outside
// of them. What disappears meanwhile is left out, and so are sockets, which are of
// no use without their server.
package copytree

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// threads is how many files are copied at once: most of the time the kernel works,
// or the disk.
const threads = 4

// parallel is how many files a tree must have before other threads help.
const parallel = 64

// Copy fills the directory to with what from holds, and gives it from's own
// attributes. Both are open for reading. The calling thread's working directory must
// be its own (see Apart): it is changed.
func Copy(ctx context.Context, from, to int) error { return tree(ctx, from, to, false) }

// Layer is Copy of the upper directory of an overlay, with the attributes in which
// the kernel keeps what it hides.
func Layer(ctx context.Context, from, to int) error { return tree(ctx, from, to, true) }

func tree(ctx context.Context, from, to int, layer bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	c := &copier{ctx: ctx, links: map[[2]uint64]string{}, top: to, who: self(), jobs: make(chan job, 2*threads)}
	root := &folder{from: from, to: to, stat: st, keep: true}
	root.pending.Store(1)
	c.own.buf, c.own.layer = make([]byte, 256<<10), layer
	err := c.dir(root, "")
	if err == nil {
		err = c.done(root, &c.own)
	}
	if err != nil {
		c.fail(err)
	}
	close(c.jobs)
	c.help.Wait()
	return c.failed()
}

// Apart calls f on a thread with a root and a working directory of its own, which
// ends with it.
func Apart(f func() error) error {
	result := make(chan error, 1)
	go apart(f, result)
	return <-result
}

func apart(f func() error, result chan<- error) {
	runtime.LockOSThread()              // never unlocked: the thread ends
	if unix.Gettid() == unix.Getpid() { // but not the first, whose root is the process's: take another
		defer runtime.UnlockOSThread()
		next := make(chan error, 1)
		go apart(f, next)
		result <- <-next
		return
	}
	err := unix.Unshare(unix.CLONE_FS)
	if err == nil {
		err = f()
	}
	result <- err
}

// IsEmpty says whether a directory that is open for reading holds nothing.
func IsEmpty(fd int) (bool, error) {
	list, err := names(fd)
	return len(list) == 0, err
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

// copier is one copy: its caller walks, and others help to copy files.
type copier struct {
	ctx   context.Context
	links map[[2]uint64]string // device and inode to the first path below top
	top   int
	who   identity
	own   scratch
	files int // seen so far

	jobs    chan job // file copies that a helper may do
	help    sync.WaitGroup
	helpers int
	ready   atomic.Int32 // helpers that may do what the caller may

	plain atomic.Bool // the file system shares no blocks

	mu  sync.Mutex // guards err, the first of the helpers
	err error
}

// scratch is one thread's memory.
type scratch struct {
	buf, value []byte
	layer      bool // of an overlay
}

// folder is a directory that is being copied; it gets its attributes when all is in it.
type folder struct {
	from, to int
	stat     unix.Stat_t
	keep     bool // the caller's: not closed
	pending  atomic.Int32
}

type job struct {
	in   *folder
	name string
	stat unix.Stat_t
}

// identity is what the kernel asks of a thread that makes files.
type identity struct {
	fsuid, fsgid int
	caps         [2]unix.CapUserData
}

func self() (who identity) {
	who.fsuid, _ = unix.SetfsuidRetUid(-1) // which changes nothing
	who.fsgid, _ = unix.SetfsgidRetGid(-1)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if unix.Capget(&header, &who.caps[0]) != nil {
		who.fsuid = -2 // like nobody else
	}
	return who
}

func (c *copier) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *copier) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// helper copies files, on a thread that may do what the caller may: others may have
// become somebody else.
func (c *copier) helper() {
	runtime.LockOSThread() // for good: the thread ends with this
	if self() != c.who {
		return
	}
	c.ready.Add(1)
	mine := scratch{buf: make([]byte, 256<<10), layer: c.own.layer}
	for j := range c.jobs {
		err := c.failed()
		if err == nil {
			if err = c.file(&mine, j.in, j.name, &j.stat); err != nil {
				c.fail(err)
			}
		}
		if err := c.done(j.in, &mine); err != nil {
			c.fail(err)
		}
	}
}

// done says that one thing more is in a folder; the last finishes it.
func (c *copier) done(f *folder, s *scratch) error {
	if f.pending.Add(-1) > 0 {
		return nil
	}
	err := s.attributes(f.from, f.to, &f.stat)
	if !f.keep {
		unix.Close(f.from)
		unix.Close(f.to)
	}
	return err
}

// dir copies what a folder holds; at is its path below the top.
func (c *copier) dir(f *folder, at string) error {
	list, err := names(f.from)
	if err != nil {
		return err
	}
	for _, name := range list {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		if err := c.failed(); err != nil {
			return err
		}
		if err := c.entry(f, name, at+name); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return nil
}

// errGone says that something disappeared, or became something else.
var errGone = errors.New("it is gone")

func gone(err error) error {
	if err == unix.ENOENT || err == unix.ELOOP || err == unix.ENOTDIR {
		return errGone
	}
	return err
}

func (c *copier) entry(in *folder, name, at string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(in.from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return gone(err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && kind != unix.S_IFSOCK && st.Nlink > 1 {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := c.links[key]; ok {
			return c.link(first, in.to, name)
		}
		err := c.single(in, name, &st) // at once: others will be links to it
		if err == nil {
			c.links[key] = at
		}
		return err
	}
	if kind == unix.S_IFDIR {
		return c.subdir(in, name, at, &st)
	}
	return c.single(in, name, &st)
}

// link gives another name to what was copied; nobody who swaps a folder for a link
// meanwhile has a file from outside named.
func (c *copier) link(first string, to int, name string) error {
	dir, base := c.top, first
	if i := strings.LastIndexByte(first, '/'); i >= 0 {
		base = first[i+1:]
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
		fd, err := unix.Openat2(c.top, first[:i], &how)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		dir = fd
	}
	return unix.Linkat(dir, base, to, name, 0)
}

// single copies what is no directory; with one name only, a helper may do it.
func (c *copier) single(in *folder, name string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Nlink == 1 && c.helped(in, name, st) {
			return nil
		}
		return c.file(&c.own, in, name, st)
	case unix.S_IFLNK:
		n, err := unix.Readlinkat(in.from, name, c.own.buf)
		if err != nil {
			return gone(err)
		}
		if err := unix.Symlinkat(string(c.own.buf[:n]), in.to, name); err != nil {
			return err
		}
	case unix.S_IFSOCK:
		return nil
	default:
		if err := unix.Mknodat(in.to, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return c.own.named(in.from, in.to, name, st)
}

// helped gives a file to a helper that has time.
func (c *copier) helped(in *folder, name string, st *unix.Stat_t) bool {
	if c.files++; c.files < parallel {
		return false
	}
	if c.helpers == 0 {
		if runtime.GOMAXPROCS(0) == 1 { // as init has it
			runtime.GOMAXPROCS(threads)
		}
		for c.helpers < threads-1 {
			c.helpers++
			c.help.Go(c.helper)
		}
	}
	if c.ready.Load() == 0 {
		return false
	}
	in.pending.Add(1)
	select {
	case c.jobs <- job{in, name, *st}:
		return true
	default:
		in.pending.Add(-1) // not the last: the walk itself counts
		return false
	}
}

func (c *copier) subdir(in *folder, name, at string, st *unix.Stat_t) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	src, err := unix.Openat(in.from, name, flags, 0)
	if err != nil {
		return gone(err)
	}
	f := &folder{from: src, to: -1, stat: *st}
	f.pending.Store(1)
	if err = unix.Mkdirat(in.to, name, 0o700); err == nil {
		f.to, err = unix.Openat(in.to, name, flags, 0)
	}
	if err != nil {
		unix.Close(src)
		return err
	}
	err = c.dir(f, at+"/")
	return errors.Join(err, c.done(f, &c.own))
}

// file copies a regular file.
func (c *copier) file(s *scratch, in *folder, name string, st *unix.Stat_t) error {
	// What took its place may be a FIFO, whose opening never ends.
	src, err := unix.Openat(in.from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if gone(err) == errGone {
			return nil
		}
		return err
	}
	defer unix.Close(src)
	var now unix.Stat_t
	if err := unix.Fstat(src, &now); err != nil || now.Mode&unix.S_IFMT != unix.S_IFREG {
		return err
	}
	dst, err := unix.Openat(in.to, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if now.Size > 0 {
		if err := c.content(s, src, dst, &now); err != nil {
			return err
		}
	}
	return s.attributes(src, dst, &now)
}

func (c *copier) content(s *scratch, src, dst int, st *unix.Stat_t) error {
	if !c.plain.Load() {
		err := unix.IoctlFileClone(dst, src)
		if err == nil {
			return nil
		}
		if err == unix.EOPNOTSUPP || err == unix.EXDEV || err == unix.ENOTTY || err == unix.ENOSYS {
			c.plain.Store(true)
		}
	}
	if st.Blocks*512 >= st.Size {
		return c.span(s, src, dst, 0, 1<<62)
	}
	for at := int64(0); ; {
		begin, err := unix.Seek(src, at, unix.SEEK_DATA)
		if err == unix.ENXIO { // only holes
			return unix.Ftruncate(dst, st.Size)
		}
		if err != nil { // the file system does not tell
			return c.span(s, src, dst, 0, 1<<62)
		}
		end, err := unix.Seek(src, begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := c.span(s, src, dst, begin, end-begin); err != nil {
			return err
		}
		at = end
	}
}

// span copies a part of a file, or what there is of it.
func (c *copier) span(s *scratch, src, dst int, at, length int64) error {
	in, out := at, at
	for length > int64(len(s.buf)) { // a large file, maybe: by the kernel alone
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(length, 64<<20)), 0)
		if err != nil || n == 0 { // it cannot, or 0 of a file of proc's kind
			break
		}
		length -= int64(n)
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
	}
	for length > 0 {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		n, err := unix.Pread(src, s.buf[:min(length, int64(len(s.buf)))], in)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		for b := s.buf[:n]; len(b) > 0; {
			w, err := unix.Pwrite(dst, b, out)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			b, out = b[w:], out+int64(w)
		}
		in, length = in+int64(n), length-int64(n)
	}
	return nil
}

// attributes copies owner, mode, extended attributes and times. chown comes
// first: it clears set-id bits and file capabilities.
func (s *scratch) attributes(src, dst int, st *unix.Stat_t) error {
	if err := unix.Fchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(dst, st.Mode&0o7777); err != nil {
		return err
	}
	err := s.xattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(src, b) },
		func(n string, b []byte) (int, error) { return unix.Fgetxattr(src, n, b) },
		func(n string, b []byte) error { return unix.Fsetxattr(dst, n, b, 0) })
	if err != nil {
		return err
	}
	return futimens(dst, []unix.Timespec{st.Atim, st.Mtim})
}

// named does the same for what cannot be opened: links and special files.
func (s *scratch) named(from, to int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	err := s.xattrs(
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
		return gone(err)
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

func (s *scratch) xattrs(list func([]byte) (int, error), get func(string, []byte) (int, error), set func(string, []byte) error) error {
	n, err := list(s.buf[:64<<10]) // XATTR_LIST_MAX
	if err == unix.ENOTSUP || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return err
	}
	if s.value == nil {
		s.value = make([]byte, 64<<10) // XATTR_SIZE_MAX
	}
	for name := range strings.SplitSeq(string(s.buf[:n]), "\x00") {
		if name == "" || !s.layer && (strings.HasPrefix(name, "trusted.overlay.") || name == "security.selinux") {
			continue // overlay's own, and a label that belongs to who uses it
		}
		size, err := get(name, s.value)
		if err == nil {
			err = set(name, s.value[:size])
		}
		if err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			return err
		}
	}
	return nil
}
