package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/snapshot/plain"
)

// Whole is btrfs and vfs: a container's file system is an active snapshot of its
// image's topmost layer, in the same store (plain.Snapshotter).
type Whole struct {
	As      string // its name
	Trees   snapshots.Snapshotter
	Context func(context.Context) context.Context // with the store's namespace
	Lowest  *Store                                // for the places that a box mounts on
	Collect func()                                // deletes what was removed, behind the answer
}

var _ Driver = (*Whole)(nil)

// containerKey is what the snapshots of containers are called. They are roots of
// their own for the collector.
const containerKey = "container-"

// Name implements Driver.
func (w *Whole) Name() string { return w.As }

// Create implements Driver.
func (w *Whole) Create(ctx context.Context, id string, image Image) (err error) {
	if !valid(id) {
		return errdefs.ErrInvalidArgument.WithMessage("the id of a layer must be a plain name: " + id)
	}
	if _, err := image.Lower(ctx); err != nil {
		return err
	}
	ctx = w.Context(ctx)
	root := map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}
	mounts, err := w.Trees.Prepare(ctx, containerKey+id, image.Chain, snapshots.WithLabels(root))
	if err != nil {
		return fmt.Errorf("make the container's file system: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Remove(id))
		}
	}()
	return w.furnish(mounts[0].Source)
}

// furnish makes the places that a box mounts on, where the image has none. Its
// links are not followed out of it.
func (w *Whole) furnish(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("the container's file system: %w", err)
	}
	defer root.Close()
	for _, name := range []string{".", "etc"} { // their change is none of the container's
		if st, err := root.Lstat(name); err == nil && st.IsDir() {
			defer func() { _ = root.Chtimes(name, st.ModTime(), st.ModTime()) }()
		}
	}
	for _, name := range baseDirs {
		if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			if err := root.Mkdir(name, 0o755); err != nil {
				return fmt.Errorf("the container's file system: %w", err)
			}
		}
	}
	for _, name := range baseFiles {
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			err = f.Close()
		} else if full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT); !full {
			err = nil // it is there, or what is in its way is the start's business
		}
		if err != nil {
			return fmt.Errorf("the container's file system: %w", err)
		}
	}
	return nil
}

// Limit implements Driver.
func (w *Whole) Limit(string, int64) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("the storage driver %s cannot limit a container's disk space: leave --storage-opt size out, or use overlay2 on xfs or ext4 with project quotas", w.As))
}

// Restore implements Driver.
func (w *Whole) Restore(id string, _ Chain) (bool, error) {
	dir, _, err := w.find(context.Background(), id)
	if err == nil {
		_, err = os.Lstat(dir)
	}
	if err != nil {
		return true, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("the container's file system is gone (%v): remove the container, and make it again", err))
	}
	return false, nil
}

// find is where a container's tree is, and the name of the image's.
func (w *Whole) find(ctx context.Context, id string) (dir, parent string, err error) {
	info, err := w.Trees.Stat(w.Context(ctx), containerKey+id)
	if err != nil {
		return "", "", fmt.Errorf("the file system of container %s: %w", id, err)
	}
	return info.Labels[plain.Label], info.Parent, nil
}

// Place implements Driver; "" of a container that has none.
func (w *Whole) Place(id string, _ Chain) string {
	dir, _, _ := w.find(context.Background(), id)
	return dir
}

// Root implements Driver.
func (w *Whole) Root(ctx context.Context, id string, _ Chain, _ []string) (box.Root, error) {
	dir, _, err := w.find(ctx, id)
	if err != nil {
		return box.Root{}, err
	}
	if _, err := os.Lstat(dir); err != nil {
		return box.Root{}, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the container's file system %s cannot be used: %v: remove the container, and make it again", dir, err))
	}
	return box.Root{Path: dir}, nil
}

// Release implements Driver.
func (w *Whole) Release(string) error { return nil }

// View implements Driver.
func (w *Whole) View(ctx context.Context, id string, c Chain, lower []string, _ bool) (View, error) {
	if id != "" {
		root, err := w.Root(ctx, id, c, lower)
		return View{Root: root}, err
	}
	if len(lower) == 0 {
		return View{Root: box.Root{Path: w.Lowest.Base()}}, nil
	}
	return View{Root: box.Root{Path: lower[0]}}, nil
}

// Size implements Driver: of the files that are not as in the image. It compares
// all of them.
func (w *Whole) Size(ctx context.Context, id string) (int64, error) {
	dir, parent, err := w.find(ctx, id)
	if err != nil {
		return 0, err
	}
	below := w.Lowest.Base()
	if parent != "" {
		info, err := w.Trees.Stat(w.Context(ctx), parent)
		if err != nil {
			return 0, fmt.Errorf("the image of container %s: %w", id, err)
		}
		below = info.Labels[plain.Label]
	}
	var t Trees
	if t.Merged, err = os.Open(dir); err != nil {
		return 0, fmt.Errorf("the file system of container %s: %w", id, err)
	}
	defer t.Merged.Close()
	if t.Lower, err = os.Open(below); err != nil {
		return 0, fmt.Errorf("the image of container %s: %w", id, err)
	}
	defer t.Lower.Close()
	var total int64
	seen := map[uint64]bool{}
	err = walkChanges(ctx, t, func(at int, name string, kind Kind) error {
		var st unix.Stat_t
		if kind == Deleted || unix.Fstatat(at, name[strings.LastIndexByte(name, '/')+1:], &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
		if st.Nlink > 1 && seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		total += st.Size
		return nil
	})
	return total, err
}

// Remove implements Driver.
func (w *Whole) Remove(id string) error {
	if !valid(id) {
		return errdefs.ErrInvalidArgument.WithMessage("the id of a layer must be a plain name: " + id)
	}
	ctx := w.Context(context.Background())
	if dir, _, err := w.find(ctx, id); err == nil {
		if err := detach(dir); err != nil { // or what is mounted there would be deleted with it
			return fmt.Errorf("remove the container's file system: %w", err)
		}
	}
	err := w.Trees.Remove(ctx, containerKey+id)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the container's file system: %w", err)
	}
	w.Collect()
	return nil
}

// Sweep implements Driver.
func (w *Whole) Sweep(known func(id string) bool) error {
	ctx := w.Context(context.Background())
	var gone []string
	err := w.Trees.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if id, ok := strings.CutPrefix(info.Name, containerKey); ok && !known(id) {
			gone = append(gone, id)
		}
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("list the containers' file systems: %w", err)
	}
	errs := []error{w.Lowest.Sweep(known)} // of overlay2, whose containers are gone
	for _, id := range gone {
		errs = append(errs, w.Remove(id))
	}
	return errors.Join(errs...)
}

// Get implements Saver: a container has no layers of its own.
func (w *Whole) Get(string, Chain) Writable { return Writable{} }

// Base implements Saver.
func (w *Whole) Base() string { return w.Lowest.Base() }

// Grow implements Saver.
func (w *Whole) Grow(string, string) (string, error) {
	return "", errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("the storage driver %s cannot keep snapshots of containers: use overlay2, or `hezi commit`", w.As))
}

// Keep implements Saver.
func (w *Whole) Keep(string, ...Chain) error { return nil }

// Flatten implements Saver.
func (w *Whole) Flatten(context.Context, string, string, string) (string, bool, error) {
	return "", false, errdefs.ErrNotImplemented.WithMessage("the storage driver " + w.As + " has no layers of containers")
}

// SizeOf implements Saver.
func (w *Whole) SizeOf(string, string) (int64, error) { return 0, nil }
