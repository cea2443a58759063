package box

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"hezi/internal/box/copytree"
	"hezi/internal/box/initproc"
)

var errEnded = fmt.Errorf("the container's process has ended: %w", os.ErrNotExist)

// View mounts layers where nobody sees them, read-only, and returns the root
// directory; closing it unmounts them. Upper may be of a container that runs:
// what it changes meanwhile may or may not be seen.
func View(lower []string) (*os.File, error) {
	fd, err := mountOverlay(&Overlay{Lower: lower})
	if err != nil {
		return nil, err
	}
	return reopened(fd, "root")
}

// ViewOf opens a directory of the host as View does: without what is mounted on it.
func ViewOf(dir string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open the file system at %s: %w", dir, err)
	}
	return reopened(fd, "root")
}

// RootOf is the root directory of a running box as it is mounted in it, and
// nothing that is mounted on it: no /proc, no volume. upper is the box's upper
// directory, by which it is recognised; os.ErrNotExist is another process, or none.
func RootOf(pid int, upper string) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("the container's mounts: %w", err)
	}
	defer ns.Close()
	fd, err := elsewhere(func() (int, error) { return cloneRoot(ns, upper) })
	if err != nil {
		return nil, err
	}
	return reopened(fd, "root")
}

// Inside is the file system of a box, with all that is mounted in it.
type Inside struct {
	Root *os.File // opened as a path

	// What keeps the mounts: their namespace, or the thread that is in it and does
	// what it is told.
	namespace *os.File
	upper     string
	todo      chan func()
	left      chan struct{}
}

// Do calls f in the mount namespace of the file system, where the kernel knows
// what is a mount point: from elsewhere, to remove a file that one is on unmounts
// it. f must stay on its goroutine, whose root and working directory are its own.
// Files are made as the root of users, of a box that has users of its own: where
// owners are mapped, the kernel lets nobody else make any.
//
// Below the thread's root no device can be opened: a box that puts one of the
// host's in the place of a file that is written (mknod(2) is allowed by default)
// would have it written by the engine, which no device rules hold. That is not so
// below Root, and of directories that were opened from there.
func (i *Inside) Do(users *Users, f func() error) error {
	if i.namespace == nil {
		done := make(chan error, 1)
		i.todo <- func() { done <- f() }
		return <-done
	}
	_, err := elsewhere(func() (int, error) {
		if err := enterMounts(i.namespace, i.upper); err != nil {
			return -1, err
		}
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return -1, fmt.Errorf("the container's file system: copy its mounts: %w", err)
		}
		if err := withoutDevices(); err != nil {
			return -1, err
		}
		if users != nil {
			if err := users.ownFiles(); err != nil {
				return -1, fmt.Errorf("make files as the container's root: %w", err)
			}
		}
		return -1, f()
	})
	return err
}

// Close lets it go.
func (i *Inside) Close() error {
	err := i.Root.Close()
	if i.namespace != nil {
		return errors.Join(err, i.namespace.Close())
	}
	close(i.todo)
	<-i.left
	return err
}

// Enter opens the file system of a running box as the box has it at every
// moment. upper is as for RootOf.
func Enter(pid int, upper string) (*Inside, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("the container's mounts: %w", err)
	}
	fd, err := elsewhere(func() (int, error) {
		if err := enterMounts(ns, upper); err != nil {
			return -1, err
		}
		return unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		ns.Close()
		return nil, err
	}
	return &Inside{Root: os.NewFile(uintptr(fd), "root"), namespace: ns, upper: upper}, nil
}

// Assemble mounts a root and, in it, binds and images, as a box would have them
// that does not run, where nobody else sees them. New volumes are filled. Owners
// that a mount maps are not: ids are as they are on disk. readOnly is of the root,
// in which mount points are made before.
func Assemble(r *Root, mounts []Mount, readOnly bool) (*Inside, error) {
	in := &Inside{todo: make(chan func()), left: make(chan struct{})}
	ready := make(chan error, 1)
	go in.assemble(r, mounts, readOnly, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return in, nil
}

// assemble stays on its thread until it is left, for the mounts end with it.
func (i *Inside) assemble(r *Root, mounts []Mount, readOnly bool, ready chan<- error) {
	runtime.LockOSThread()              // never unlocked: the thread ends
	if unix.Gettid() == unix.Getpid() { // the first thread never ends: keep it busy and take another
		defer runtime.UnlockOSThread()
		next := make(chan struct{})
		go func() {
			i.assemble(r, mounts, readOnly, ready)
			close(next)
		}()
		<-next
		return
	}
	defer close(i.left)
	root, err := assembled(r, mounts, readOnly)
	if err == nil {
		i.Root = os.NewFile(uintptr(root), "root")
	}
	ready <- err
	if err != nil {
		return
	}
	for f := range i.todo {
		f()
	}
}

func assembled(r *Root, mounts []Mount, readOnly bool) (root int, err error) {
	fail := func(what string, err error) (int, error) {
		return -1, fmt.Errorf("the container's file system: %s: %w", what, err)
	}
	b := newBundle()
	defer func() { b.close() }()
	var fd int
	if r.Overlay != nil {
		fd, err = mountOverlay(r.Overlay)
	} else if fd, err = unix.OpenTree(unix.AT_FDCWD, r.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
		err = fmt.Errorf("the container's file system: open %s: %w", r.Path, err)
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	if err := b.mounts(&Spec{Mounts: mounts}); err != nil {
		return -1, err
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fail("make a mount namespace", err)
	}
	// Slave: what others unmount goes away here too, and nothing goes back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fail("keep mounts from spreading", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil { // over what the thread has no use for
		return fail("attach its root", err)
	}
	b.owned = nil // theirs by now
	if err := initproc.Attach(fd, &b.plan, b.files); err != nil {
		return -1, asError(err)
	}
	if root, err = unix.Openat(fd, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fail("open it", err)
	}
	if err = unix.Fchdir(root); err == nil {
		err = unix.Chroot(".") // what is done there by a path stays there
	}
	if err == nil && readOnly {
		err = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	if err != nil {
		unix.Close(root)
		return fail("enter it", err)
	}
	if err := withoutDevices(); err != nil {
		unix.Close(root)
		return -1, err
	}
	return root, nil
}

// withoutDevices lets nobody open a device below the calling thread's root, whose
// mounts must be its own.
func withoutDevices() error {
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
	if err != nil && !errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		return fmt.Errorf("the container's file system: keep its devices closed: %w", err)
	}
	return nil
}

// CopyLayer copies a container's layer as it lies on the disk into an empty one. The
// container must be frozen or have ended. Where the file system can, the two share
// their blocks (FICLONE).
func CopyLayer(ctx context.Context, from, to string) error {
	var dirs [2]*os.File
	for i, name := range []string{from, to} {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		dirs[i] = f
	}
	return copytree.Apart(func() error { return copytree.Layer(ctx, int(dirs[0].Fd()), int(dirs[1].Fd())) })
}

// elsewhere calls f on a thread that is thrown away afterwards, with the
// namespaces that it went into.
func elsewhere(f func() (int, error)) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the first thread never ends: keep it busy and take another
			defer runtime.UnlockOSThread()
			fd, err := elsewhere(f)
			done <- result{fd, err}
			return
		}
		fd, err := f()
		done <- result{fd, err} // never unlocked: the thread ends
	}()
	got := <-done
	return got.fd, got.err
}

// enterMounts takes the calling thread into a box's mount namespace.
func enterMounts(ns *os.File, upper string) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("the container's root file system: %s: %w", what, err)
	}
	device := deviceOf(upper) // while it can be seen
	// The box's own /proc does not know this thread.
	self, err := unix.Open("/proc/thread-self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("find this thread", err)
	}
	defer unix.Close(self)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fail("leave the engine's root", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fail("enter its mounts", err)
	}
	list, err := unix.Openat(self, "mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open the list of its mounts", err)
	}
	f := os.NewFile(uintptr(list), "mountinfo")
	defer f.Close()
	mounts, err := io.ReadAll(f)
	if err != nil {
		return fail("read the list of its mounts", err)
	}
	if !rootIs(mounts, upper, device) {
		return errEnded
	}
	return nil
}

// cloneRoot clones a box's root mount alone.
func cloneRoot(ns *os.File, upper string) (int, error) {
	if err := enterMounts(ns, upper); err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("the container's root file system: open it: %w", err)
	}
	// What is mounted in the box from now on must not appear here.
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil && !errors.Is(err, unix.ENOSYS) {
		unix.Close(fd)
		return -1, fmt.Errorf("the container's root file system: keep mounts out: %w", err)
	}
	return fd, nil
}

// deviceOf is the file system that is mounted at a path, as proc_pid_mountinfo(5)
// writes it; "" where none is.
func deviceOf(path string) string {
	var st, above unix.Stat_t
	if unix.Stat(path, &st) != nil || unix.Stat(path+"/..", &above) != nil || st.Dev == above.Dev {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}

// rootIs says whether the first mount on / is an overlay with an upper
// directory (proc_pid_mountinfo(5)), which may be written relative to another; or
// a directory of that path, or all of the file system that is mounted there.
func rootIs(mountinfo []byte, upper, device string) bool {
	for line := range bytes.Lines(mountinfo) {
		f := strings.Fields(string(line))
		if len(f) < 10 || f[4] != "/" {
			continue
		}
		for o := range strings.SplitSeq(f[len(f)-1], ",") {
			// The path is of the mount that the directory was named by: with mapped
			// owners that is one of the layers' folder.
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok && strings.Contains(strings.Trim(dir, "/"), "/") && strings.HasSuffix(upper, "/"+strings.TrimPrefix(dir, "/")) {
				return true
			}
		}
		if f[3] == "/" {
			return device != "" && f[2] == device
		}
		return strings.Contains(f[3][1:], "/") && strings.HasSuffix(upper, f[3])
	}
	return false
}

// reopened makes a directory that can be read of one that is only a path. It
// closes fd.
func reopened(fd int, name string) (*os.File, error) {
	defer unix.Close(fd)
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the container's root file system: %w", err)
	}
	return os.NewFile(uintptr(dir), name), nil
}
