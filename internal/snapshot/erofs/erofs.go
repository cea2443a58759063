// Package erofs keeps each layer of an image as one file with an EROFS file system,
// mounted where overlay looks for the layer's directory.
//
//	snapshots/ID/layer.erofs   what mkfs.erofs made of the unpacked layer
//	snapshots/ID/fs            empty, the file is mounted here
//
// The mounts are the host's, and gone after a reboot: Open makes them again. A
// container that runs has the file system by its own overlay, whatever happens here.
package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	fileName = "layer.erofs"
	program  = "mkfs.erofs"
)

// Snapshotter is overlay's, whose committed layers are mounted files.
type Snapshotter struct {
	snapshots.Snapshotter
	label string // tells a snapshot's directory
}

var _ snapshots.Cleaner = (*Snapshotter)(nil)

// Open mounts all layers. One that cannot be mounted is told to bad, and Ready.
func Open(ctx context.Context, inner snapshots.Snapshotter, label string, bad func(dir string, err error)) (*Snapshotter, error) {
	s := &Snapshotter{Snapshotter: inner, label: label}
	return s, s.each(ctx, func(dir string) {
		if err := Mount(dir); err != nil {
			bad(dir, err)
		}
	})
}

func (s *Snapshotter) each(ctx context.Context, f func(dir string)) error {
	err := s.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted {
			f(i.Labels[s.label])
		}
		return nil
	})
	if errdefs.IsNotFound(err) { // nothing was ever kept
		return nil
	}
	return err
}

// Remove implements snapshots.Snapshotter.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	dir := info.Labels[s.label]
	was := Mounted(dir)
	if err := unmount(dir); err != nil { // or what is mounted there would be deleted
		return fmt.Errorf("unmount the layer %s: %w", dir, err)
	}
	err = s.Snapshotter.Remove(ctx, key)
	if err != nil && was { // others are on it
		err = errors.Join(err, Mount(dir))
	}
	return err
}

// Cleanup implements snapshots.Cleaner: it unmounts what has no record any more.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	known := map[string]bool{}
	var root string
	err := s.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		known[i.Labels[s.label]] = true
		root = filepath.Dir(filepath.Dir(i.Labels[s.label]))
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if root != "" {
		list, err := filepath.Glob(filepath.Join(root, "*", "fs"))
		if err != nil {
			return err
		}
		for _, dir := range list {
			if !known[dir] {
				if err := unmount(dir); err != nil {
					return err
				}
			}
		}
	}
	if c, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return nil
}

// Close implements snapshots.Snapshotter; it unmounts all.
func (s *Snapshotter) Close() error {
	var errs []error
	err := s.each(context.Background(), func(dir string) { errs = append(errs, unmount(dir)) })
	return errors.Join(append(errs, err, s.Snapshotter.Close())...)
}

// Seal makes the file of an unpacked layer, which it replaces, and mounts it.
func Seal(ctx context.Context, dir string) (snapshots.Usage, error) {
	var none snapshots.Usage
	file := filepath.Join(filepath.Dir(dir), fileName)
	var said bytes.Buffer
	// Inodes of the long form have the exact time and any owner.
	cmd := exec.CommandContext(ctx, program, "--quiet", "-Eforce-inode-extended", "--preserve-mtime", file, dir)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return none, context.Cause(ctx)
		}
		if errors.Is(err, exec.ErrNotFound) {
			return none, errdefs.ErrFailedPrecondition.WithMessage("the storage driver erofs needs the program mkfs.erofs: install erofs-utils")
		}
		return none, fmt.Errorf("make an EROFS file of the layer: %s: %w: %s", program, err, strings.TrimSpace(said.String()))
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return none, err
	}
	for _, e := range list {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return none, err
		}
	}
	if err := Mount(dir); err != nil {
		return none, err
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return none, err
	}
	return snapshots.Usage{Size: st.Blocks * 512, Inodes: 1}, nil // stat(2)
}

// Mounted says whether a layer's file is mounted.
func Mounted(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && int64(st.Type) == unix.EROFS_SUPER_MAGIC_V1
}

// Mount mounts a layer's file, once.
func Mount(dir string) error {
	if Mounted(dir) {
		return nil
	}
	file := filepath.Join(filepath.Dir(dir), fileName)
	err := unix.Mount(file, dir, "erofs", unix.MS_RDONLY|unix.MS_NOATIME, "")
	if errors.Is(err, unix.ENOTBLK) { // before Linux 6.12: by a loop device
		m := mount.Mount{Type: "erofs", Source: file, Options: []string{"ro", "loop"}}
		err = m.Mount(dir)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		return errdefs.ErrFailedPrecondition.WithMessage("the kernel has no EROFS: load it with `modprobe erofs`, or use another --storage-driver")
	case errors.Is(err, fs.ErrNotExist):
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the layer's file %s is missing: hezi system check --images --repair unpacks it again", file))
	}
	return fmt.Errorf("mount the layer %s (if it is damaged, hezi system check --images --repair unpacks it again): %w", file, err)
}

// Ready makes sure that all of an image's layers are mounted.
func Ready(dirs []string) error {
	for _, dir := range dirs {
		if err := Mount(dir); err != nil {
			return err
		}
	}
	return nil
}

func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	return err
}

// Exchange gives a layer's place to the one in dir, which gets what was there.
func Exchange(dir, place string) error {
	if err := errors.Join(unmount(dir), unmount(place)); err != nil {
		return err
	}
	if err := os.MkdirAll(place, 0o755); err != nil {
		return err
	}
	file := func(dir string) string { return filepath.Join(filepath.Dir(dir), fileName) }
	err := unix.Renameat2(unix.AT_FDCWD, file(dir), unix.AT_FDCWD, file(place), unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(file(dir), file(place))
	}
	if err != nil {
		return err
	}
	return Mount(place)
}
