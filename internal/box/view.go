package box

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
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

// cloneRoot takes the calling thread into a mount namespace.
func cloneRoot(ns *os.File, upper string) (int, error) {
	fail := func(what string, err error) (int, error) {
		return -1, fmt.Errorf("the container's root file system: %s: %w", what, err)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fail("leave the engine's root", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fail("enter its mounts", err)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return fail("read its mounts", err)
	}
	if !rootIs(mounts, upper) {
		return -1, errEnded
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fail("open it", err)
	}
	// What is mounted in the box from now on must not appear here.
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil && !errors.Is(err, unix.ENOSYS) {
		unix.Close(fd)
		return fail("keep mounts out", err)
	}
	return fd, nil
}

// rootIs says whether the first mount on / is an overlay with an upper
// directory (proc_pid_mountinfo(5)), which may be written relative to another.
func rootIs(mountinfo []byte, upper string) bool {
	for line := range bytes.Lines(mountinfo) {
		f := strings.Fields(string(line))
		if len(f) < 10 || f[4] != "/" {
			continue
		}
		for o := range strings.SplitSeq(f[len(f)-1], ",") {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok && dir != "" && (dir == upper || strings.HasSuffix(upper, "/"+dir)) {
				return true
			}
		}
		return false
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
