package oci

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// beside is a mount namespace that is not the container's own: what it mounts on
// its root file system is there until delete.
type beside struct {
	Path  string `json:"path,omitempty"` // "": the caller's own
	Inode uint64 `json:"inode"`          // of the namespace
	// Before is how many mounts were on the root file system's directory.
	Before int `json:"before"`
}

// besideOf looks at the namespace before a container is made in it; nil: it has its own.
func besideOf(n *box.Namespace, root string) (*beside, error) {
	if n.Mode == box.NamespaceNew {
		return nil, nil
	}
	b := &beside{Path: n.Path}
	ns, err := os.Open(b.file())
	if err != nil {
		return nil, fmt.Errorf("the mount namespace: %w", err)
	}
	defer ns.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return nil, fmt.Errorf("the mount namespace %s: %w", b.file(), err)
	}
	b.Inode = st.Ino
	return b, b.within(ns, func() error {
		b.Before, err = mountsOn(root)
		return err
	})
}

func (b *beside) file() string {
	if b.Path != "" {
		return b.Path
	}
	return "/proc/self/ns/mnt"
}

// clear unmounts what the container has left on its root file system's directory.
func (b *beside) clear(root string) error {
	if b == nil {
		return nil
	}
	ns, err := os.Open(b.file())
	if os.IsNotExist(err) {
		return nil // the namespace has ended, and its mounts with it
	}
	if err != nil {
		return fmt.Errorf("the container's mount namespace: %w", err)
	}
	defer ns.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil || st.Ino != b.Inode {
		return err // the path is another's by now
	}
	return b.within(ns, func() error {
		for {
			n, err := mountsOn(root)
			if err != nil || n <= b.Before {
				return err
			}
			if err := unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("unmount the container's root file system %s: %w", root, err)
			}
		}
	})
}

// within calls f in the namespace, on a thread that is thrown away.
func (b *beside) within(ns *os.File, f func() error) error {
	if b.Path == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			done <- fmt.Errorf("join the mount namespace %s: %w", b.Path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// mountsOn counts the mounts on a directory, as the calling thread sees them
// (proc_pid_mountinfo(5)).
func mountsOn(dir string) (n int, err error) {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return 0, err
	}
	name := strings.NewReplacer("\\", `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(dir)
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) > 4 && string(f[4]) == name {
			n++
		}
	}
	return n, nil
}
