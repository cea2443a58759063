package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/disk"
	"hezi/internal/snapshot/plain"
)

// Whole is btrfs and vfs: a container's file system is an active snapshot of its
// image's topmost layer, in the same store (plain.Snapshotter). Each of the
// container's own snapshots is another one, and a copy.
type Whole struct {
	As      string // its name
	Trees   snapshots.Snapshotter
	Context func(context.Context) context.Context // with the store's namespace
	Kind    plain.Kind                            // of the trees
	Lowest  *Store                                // for the places that a box mounts on
	Collect func()                                // deletes what was removed, behind the answer

	mu    sync.Mutex
	trees map[string]map[string]bool // layers of each container; Sweep finds those of an engine before
}

var _ Driver = (*Whole)(nil)

// containerKey is what the snapshots of containers are called. They are roots of
// their own for the collector.
const containerKey = "container-"

// key is the name of one of a container's trees. Ids have no dot.
func key(id, layer string) string { return containerKey + suffixed(id, layer) }

// ofKey is the container and the layer that a name is of.
func ofKey(name string) (id, layer string, ok bool) {
	name, ok = strings.CutPrefix(name, containerKey)
	id, layer, _ = strings.Cut(name, ".")
	return id, layer, ok
}

// has notes that a container has a tree.
func (w *Whole) has(id, layer string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trees == nil {
		w.trees = map[string]map[string]bool{}
	}
	if w.trees[id] == nil {
		w.trees[id] = map[string]bool{}
	}
	w.trees[id][layer] = true
}

// layers are the trees of a container that are known.
func (w *Whole) layers(id string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.trees[id]))
}

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
	mounts, err := w.Trees.Prepare(ctx, key(id, first), image.Chain, snapshots.WithLabels(held()))
	if err != nil {
		return fmt.Errorf("make the container's file system: %w", err)
	}
	w.has(id, first)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Remove(id))
		}
	}()
	return w.furnish(mounts[0].Source)
}

// held are the labels of what the collector must leave alone.
func held() map[string]string {
	return map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}
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
func (w *Whole) Limit(id string, bytes int64) error {
	dir, _, err := w.find(context.Background(), id, first)
	if err != nil {
		return err
	}
	return w.Kind.Limit(dir, bytes)
}

// CanLimit implements Driver.
func (w *Whole) CanLimit(bytes int64) error {
	ctx, name := w.Context(context.Background()), containerKey+".limit"
	if err := w.Trees.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("try to limit a tree: %w", err)
	}
	mounts, err := w.Trees.Prepare(ctx, name, "")
	if err != nil {
		return fmt.Errorf("try to limit a tree: %w", err)
	}
	return errors.Join(w.Kind.Limit(mounts[0].Source, bytes), w.Trees.Remove(ctx, name))
}

// Restore implements Driver.
func (w *Whole) Restore(id string, c Chain) (bool, error) {
	dir, _, err := w.use(context.Background(), id, c.names()[0])
	if err == nil {
		_, err = os.Lstat(dir)
	}
	if errdefs.IsFailedPrecondition(err) { // it may be repaired
		w.has(id, c.names()[0])
		return false, err
	}
	if err != nil {
		return true, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("the container's file system is gone (%v): remove the container, and make it again", err))
	}
	w.has(id, c.names()[0])
	return false, nil
}

// find is where a tree of a container is, and the name of the image's.
func (w *Whole) find(ctx context.Context, id, layer string) (dir, parent string, err error) {
	info, err := w.Trees.Stat(w.Context(ctx), key(id, layer))
	if err != nil {
		return "", "", fmt.Errorf("the file system of container %s: %w", id, err)
	}
	return info.Labels[plain.Label], info.Parent, nil
}

// use is find of a tree that is to be used.
func (w *Whole) use(ctx context.Context, id, layer string) (dir, parent string, err error) {
	if dir, parent, err = w.find(ctx, id, layer); err == nil {
		err = w.Kind.Ready(dir)
	}
	return dir, parent, err
}

// Place implements Driver; "" of a container that has none.
func (w *Whole) Place(id string, c Chain) string {
	dir, _, _ := w.find(context.Background(), id, c.names()[0])
	return dir
}

// Places are the directories of all that a container has.
func (w *Whole) Places(id string) (dirs []string) {
	for _, layer := range w.layers(id) {
		if dir, _, err := w.find(context.Background(), id, layer); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Root implements Driver.
func (w *Whole) Root(ctx context.Context, id string, c Chain, _ []string) (box.Root, error) {
	if err := w.mend(ctx, id, c); err != nil {
		return box.Root{}, err
	}
	return w.root(ctx, id, c)
}

// mend is use of what does not run and is to be written to.
func (w *Whole) mend(ctx context.Context, id string, c Chain) error {
	dir, _, err := w.find(ctx, id, c.names()[0])
	if err == nil {
		err = w.Kind.Mend(dir)
	}
	return err
}

func (w *Whole) root(ctx context.Context, id string, c Chain) (box.Root, error) {
	dir, _, err := w.use(ctx, id, c.names()[0])
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
		root, err := w.root(ctx, id, c)
		return View{Root: root}, err
	}
	if len(lower) == 0 {
		return View{Root: box.Root{Path: w.Lowest.Base()}}, nil
	}
	return View{Root: box.Root{Path: lower[0]}}, nil
}

// Size implements Driver: of the files that are not as in the image. It compares
// all of them.
func (w *Whole) Size(ctx context.Context, id string) (total int64, err error) {
	for _, layer := range w.layers(id) {
		n, err := w.SizeOf(ctx, id, layer)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// SizeOf implements Saver: of what one tree has otherwise than the image.
func (w *Whole) SizeOf(ctx context.Context, id, layer string) (int64, error) {
	dir, parent, err := w.use(ctx, id, layer)
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
	all := w.layers(id)
	if len(all) == 0 { // made by an engine before
		all = []string{first}
	}
	return w.drop(id, all)
}

// drop removes trees of a container.
func (w *Whole) drop(id string, layers []string) error {
	ctx := w.Context(context.Background())
	for _, layer := range layers {
		if dir, _, err := w.find(ctx, id, layer); err == nil {
			if err := disk.Detach(dir); err != nil { // or what is mounted there would be deleted with it
				return fmt.Errorf("remove the container's file system: %w", err)
			}
		}
		err := w.Trees.Remove(ctx, key(id, layer))
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove the container's file system: %w", err)
		}
		w.mu.Lock()
		delete(w.trees[id], layer)
		if len(w.trees[id]) == 0 {
			delete(w.trees, id)
		}
		w.mu.Unlock()
	}
	w.Collect()
	return nil
}

// Sweep implements Driver.
func (w *Whole) Sweep(known func(id string) bool) error {
	ctx := w.Context(context.Background())
	found := map[string]bool{}
	err := w.Trees.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if id, layer, ok := ofKey(info.Name); ok {
			w.has(id, layer)
			found[id] = true
		}
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("list the containers' file systems: %w", err)
	}
	errs := []error{w.Lowest.Sweep(known)} // of overlay2, whose containers are gone
	for id := range found {
		if !known(id) {
			errs = append(errs, w.drop(id, w.layers(id)))
		}
	}
	return errors.Join(errs...)
}

// Get implements Saver.
func (w *Whole) Get(string, Chain) Writable { return Writable{} }

// Base implements Saver.
func (w *Whole) Base() string { return w.Lowest.Base() }

// Grow implements Saver: by a copy of the tree.
func (w *Whole) Grow(ctx context.Context, id string, c Chain) (Chain, error) {
	if err := w.mend(ctx, id, c); err != nil {
		return nil, err
	}
	return w.Copy(ctx, id, c)
}

// Copy implements Saver.
func (w *Whole) Copy(ctx context.Context, id string, c Chain) (Chain, error) {
	from, parent, err := w.use(ctx, id, c.names()[0])
	if err != nil {
		return nil, err
	}
	labels := held()
	labels[plain.CopyOf] = from
	for n := 2; ; n++ {
		layer := strconv.Itoa(n)
		_, err := w.Trees.Prepare(w.Context(ctx), key(id, layer), parent, snapshots.WithLabels(labels))
		if errdefs.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("copy the file system of container %s: %w", id, err)
		}
		w.has(id, layer)
		return Chain{layer}, nil
	}
}

// Keep implements Saver.
func (w *Whole) Keep(id string, chains ...Chain) error {
	var gone []string
	for _, layer := range w.layers(id) {
		if !slices.ContainsFunc(chains, func(c Chain) bool { return slices.Contains(c.names(), layer) }) {
			gone = append(gone, layer)
		}
	}
	if gone == nil {
		return nil
	}
	return w.drop(id, gone)
}

// Flatten implements Saver: there is nothing to be made one.
func (w *Whole) Flatten(context.Context, string, string, string) (string, bool, error) {
	return "", false, nil
}
