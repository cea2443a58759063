package snapshot

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

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// Fuse is fuse-overlayfs: the directories of overlay2, stacked by a program for
// each container that runs, where the kernel's overlay cannot be used. The
// program serves from Root until Release and depends on no process of ours.
type Fuse struct {
	*Store
	Program string // path of fuse-overlayfs
}

var _ Driver = (*Fuse)(nil)

// Name implements Driver.
func (f *Fuse) Name() string { return "fuse-overlayfs" }

func (f *Fuse) merged(id string) string { return filepath.Join(f.root, id, "merged") }

// Place implements Driver.
func (f *Fuse) Place(id string, _ Chain) string { return f.merged(id) }

// Root implements Driver. What another start left is mounted anew: its program
// may have died.
func (f *Fuse) Root(ctx context.Context, id string, c Chain, lower []string) (box.Root, error) {
	at := f.merged(id)
	if err := f.Release(id); err != nil {
		return box.Root{}, err
	}
	if err := f.mount(ctx, at, lower, id, c, true); err != nil {
		return box.Root{}, err
	}
	return box.Root{Path: at}, nil
}

// Release implements Driver.
func (f *Fuse) Release(id string) error {
	if !valid(id) {
		return nil
	}
	for { // one above the other
		err := unix.Unmount(f.merged(id), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			return nil
		default:
			return fmt.Errorf("unmount the container's file system %s: %w", f.merged(id), err)
		}
	}
}

// View implements Driver.
func (f *Fuse) View(ctx context.Context, id string, c Chain, lower []string, write bool) (View, error) {
	at, err := os.MkdirTemp(f.root, ScratchPrefix)
	if err != nil {
		return View{}, fmt.Errorf("a place to mount the container's file system: %w", err)
	}
	if err := f.mount(ctx, at, lower, id, c, write); err != nil {
		return View{}, errors.Join(err, os.Remove(at))
	}
	return View{Root: box.Root{Path: at}, done: func() error {
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		return os.Remove(at)
	}}, nil
}

// Copy implements Saver. The kernel holds what was written until it gives it to the
// program, at the latest when a descriptor of the file is closed (fuse_flush in the
// kernel's fs/fuse/file.c), whoever opened it.
func (f *Fuse) Copy(ctx context.Context, id string, c Chain) (Chain, error) {
	merged, err := os.OpenRoot(f.merged(id))
	if err != nil {
		return nil, err
	}
	defer merged.Close()
	upper := f.Get(id, c).Upper
	err = filepath.WalkDir(upper, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || !d.Type().IsRegular() {
			return err
		}
		file, err := merged.OpenFile(strings.TrimPrefix(path, upper+"/"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) { // a mark of the program's own
			return nil
		}
		if err != nil {
			return err
		}
		return file.Close()
	})
	if err != nil {
		return nil, fmt.Errorf("have the container's files written: %w", err)
	}
	return f.Store.Copy(ctx, id, c)
}

// Flatten implements Saver: what the program notes in its layers is its own to read.
func (f *Fuse) Flatten(context.Context, string, string, string) (string, bool, error) {
	return "", false, nil
}

// mount has the program mount layers at a directory, which it makes.
func (f *Fuse) mount(ctx context.Context, at string, lower []string, id string, c Chain, write bool) error {
	if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("a place to mount the container's file system: %w", err)
	}
	name := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)
	var w Writable // none of the image alone
	if id != "" {
		usable := f.ready
		if write {
			usable = f.startable
		}
		if err := usable(id); err != nil {
			return err
		}
		w = f.Get(id, c)
	}
	dirs := f.above(w.Below, lower)
	if id != "" && !write {
		dirs = append([]string{w.Upper}, dirs...)
	}
	for i, d := range dirs {
		if _, err := os.Stat(d); errors.Is(err, fs.ErrNotExist) {
			return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the directory %s of a layer is missing: `hezi system check --images --repair` unpacks the image's layers again", d))
		}
		dirs[i] = name.Replace(d)
	}
	options := "lowerdir=" + strings.Join(dirs, ":")
	if write {
		options += ",upperdir=" + name.Replace(w.Upper) + ",workdir=" + name.Replace(w.Work)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, f.Program, "-o", options, at)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &said, &said
	if err := cmd.Run(); err != nil {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s cannot mount the container's file system: %v: %s (is /dev/fuse there? `modprobe fuse`)", f.Program, err, strings.TrimSpace(said.String())))
	}
	return nil
}
