// Package unpack writes the layers of images into folders: it decompresses
// them and unpacks their archives, on their own (Alone) or over the mounted
// layers below (Mounted, Apply). It knows neither digests nor a store.
//
// Every layer is hostile: nothing of it is made, read or removed outside its
// folder.
package unpack

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Mounted calls f with the path of a mounted snapshot. The mount is in a mount
// namespace of one thread, which ends with the thread: not even a kill leaves
// it behind, and nobody else sees it. f must stay on its goroutine wherever it
// touches that path.
func Mounted(m mount.Mount, f func(root string) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the first thread never ends: keep it busy and take another
			defer runtime.UnlockOSThread()
			done <- Mounted(m, f)
			return
		}
		done <- mounted(m, f) // never unlocked: the thread ends with its namespace
	}()
	return <-done
}

func mounted(m mount.Mount, f func(root string) error) error {
	if m.Type != "overlay" {
		return fmt.Errorf("a layer over others is of type %q: %w", m.Type, errdefs.ErrInternal)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { // and CLONE_FS: the folder below is the thread's own
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// Slave: what others unmount goes away here too, and nothing goes back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from spreading: %w", err)
	}
	base, target, data, err := relative(m.Options)
	if err != nil {
		return err
	}
	if err := unix.Chdir(base); err != nil {
		return fmt.Errorf("enter %s: %w", base, err)
	}
	if err := unix.Mount("overlay", target, "overlay", 0, data); err != nil {
		return fmt.Errorf("mount the layers below: %w", err)
	}
	return f(filepath.Join(base, target))
}

// relative rewrites overlay's options relative to the folder that holds all
// snapshots, for the kernel takes one page of them. target is the snapshot's
// own folder, which holds its upper folder and is covered by the mount.
func relative(options []string) (base, target, data string, err error) {
	var upper string
	for _, o := range options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = dir
		}
	}
	if upper == "" {
		return "", "", "", fmt.Errorf("overlay without upperdir: %w", errdefs.ErrInternal)
	}
	own := filepath.Dir(upper)
	base, target = filepath.Split(own)
	list := make([]string, len(options))
	for i, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if ok && (key == "lowerdir" || key == "upperdir" || key == "workdir") {
			dirs := strings.Split(value, ":")
			for i := range dirs {
				dirs[i] = strings.TrimPrefix(dirs[i], base)
			}
			value = strings.Join(dirs, ":")
			o = key + "=" + value
		}
		list[i] = o
	}
	data = strings.Join(list, ",")
	if len(data) >= unix.Getpagesize() {
		return "", "", "", errdefs.ErrOutOfRange.WithMessage("the image has more layers than the kernel can stack")
	}
	return filepath.Clean(base), target, data, nil
}
