// Package plain keeps layers as whole directory trees: each has all that is in
// the layers below it, too. Nothing of it needs a file system of its own to be
// mounted, so it works wherever files do.
//
//	ROOT
//	├── metadata.db        names, parents and labels (containerd's storage.MetaStore)
//	├── snapshots/new-*    being made
//	├── snapshots/ID/fs    the tree of one snapshot
//	└── snapshots/ID/disk.ext4  a disk in a file, which has the tree, of one that is limited
//	                       and whose file system cannot do it (Copies)
package plain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	cfs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/disk"
	"hezi/internal/disk/loop"
)

// Kind is how trees are made.
type Kind interface {
	// Make makes an empty tree.
	Make(dir string) error
	// Copy makes a tree that is another's copy, with its limit, to be written to.
	// Nobody writes to the other meanwhile.
	Copy(ctx context.Context, from, to string) error
	// Sync has a copy survive a power cut.
	Sync(dir string) error
	// Ready has a tree that was limited be where it is, as after a reboot.
	Ready(dir string) error
	// Mend is Ready of a tree that is to be written to, and that nobody uses: one that
	// stopped taking what is written does so again.
	Mend(dir string) error
	// Limit bounds the bytes that a tree takes, on top of what it has now. Error:
	// NotImplemented where that cannot be done.
	Limit(dir string, bytes int64) error
	// Delete removes a tree; one that is not there is no error.
	Delete(dir string) error
}

// Label is where Stat and Walk tell a snapshot's directory.
const Label = "containerd.io/snapshot/overlay.upperdir"

// CopyOf is the label with which Prepare makes a tree that is a copy of another
// active one, which has the same parent, by its directory. It is synced.
const CopyOf = "containerd.io/snapshot/copy-of"

// Records keeps what a Snapshotter knows. *storage.MetaStore does.
type Records interface {
	WithTransaction(ctx context.Context, writable bool, f storage.TransactionCallback) error
	Close() error
}

// Snapshotter keeps trees. It is snapshots.Snapshotter, whose comment is the contract.
type Snapshotter struct {
	root    string
	records Records
	kind    Kind
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// New keeps trees below root, which it makes.
func New(root string, records Records, kind Kind) (*Snapshotter, error) {
	if err := os.MkdirAll(filepath.Join(root, "snapshots"), 0o700); err != nil {
		return nil, fmt.Errorf("the folder of layers: %w", err)
	}
	return &Snapshotter{root: root, records: records, kind: kind}, nil
}

func (s *Snapshotter) folder(id string) string { return filepath.Join(s.root, "snapshots", id) }

func (s *Snapshotter) tree(id string) string { return filepath.Join(s.folder(id), "fs") }

func (s *Snapshotter) labelled(id string, info snapshots.Info) snapshots.Info {
	if info.Labels == nil {
		info.Labels = map[string]string{}
	}
	info.Labels[Label] = s.tree(id)
	return info
}

// Stat implements snapshots.Snapshotter.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	var id string
	err = s.records.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return snapshots.Info{}, err
	}
	return s.labelled(id, info), nil
}

// Update implements snapshots.Snapshotter.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (_ snapshots.Info, err error) {
	err = s.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		info, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return info, err
}

// Usage implements snapshots.Snapshotter: a tree takes what all its files take.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var id string
	var info snapshots.Info
	err = s.records.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil || info.Kind != snapshots.KindActive {
		return usage, err
	}
	u, err := cfs.DiskUsage(ctx, s.tree(id))
	return snapshots.Usage(u), err
}

// Prepare implements snapshots.Snapshotter.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View implements snapshots.Snapshotter.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

// create copies before it takes the records, which all others wait for.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (_ []mount.Mount, err error) {
	var made string // a folder that has no place yet
	defer func() {
		if err != nil && made != "" {
			err = errors.Join(err, s.delete(made))
		}
	}()
	if kind == snapshots.KindActive || parent == "" {
		if made, err = os.MkdirTemp(filepath.Join(s.root, "snapshots"), "new-"); err != nil {
			return nil, fmt.Errorf("make a folder for a layer: %w", err)
		}
		var asked snapshots.Info
		for _, opt := range opts {
			if err := opt(&asked); err != nil {
				return nil, err
			}
		}
		if from := asked.Labels[CopyOf]; from != "" {
			err = s.duplicate(ctx, made, from)
			opts = append(opts, func(i *snapshots.Info) error { delete(i.Labels, CopyOf); return nil })
		} else {
			err = s.fill(ctx, made, parent)
		}
		if err != nil {
			return nil, err
		}
	}
	var sn storage.Snapshot
	err = s.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		if sn, err = storage.CreateSnapshot(ctx, kind, key, parent, opts...); err != nil {
			return fmt.Errorf("record the layer: %w", err)
		}
		if made == "" {
			return nil
		}
		if err := os.Rename(made, s.folder(sn.ID)); err != nil {
			return fmt.Errorf("give the layer its place: %w", err)
		}
		made = s.folder(sn.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.mounts(sn), nil
}

// fill makes the tree in a new folder.
func (s *Snapshotter) fill(ctx context.Context, dir, parent string) error {
	if parent == "" {
		return s.kind.Make(filepath.Join(dir, "fs"))
	}
	var from string
	err := s.records.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, _, err := storage.GetInfo(ctx, parent)
		if err == nil && info.Kind == snapshots.KindCommitted {
			from = s.tree(id)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("the layer below: %w", err)
	}
	if from == "" { // CreateSnapshot refuses it, in its own words
		return nil
	}
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the directory %s of a layer is missing: `hezi system check --images --repair` unpacks it again", from))
	}
	return s.kind.Copy(ctx, from, filepath.Join(dir, "fs"))
}

// duplicate makes the tree in a new folder as a copy of another one.
func (s *Snapshotter) duplicate(ctx context.Context, dir, from string) error {
	if filepath.Dir(filepath.Dir(from)) != filepath.Join(s.root, "snapshots") {
		return errdefs.ErrInvalidArgument.WithMessage("not a directory of a layer: " + from)
	}
	to := filepath.Join(dir, "fs")
	if err := s.kind.Copy(ctx, from, to); err != nil {
		return err
	}
	if err := s.kind.Sync(to); err != nil {
		return fmt.Errorf("write the copy %s to the disk: %w", to, err)
	}
	return nil
}

// Mounts implements snapshots.Snapshotter.
func (s *Snapshotter) Mounts(ctx context.Context, key string) (_ []mount.Mount, err error) {
	var sn storage.Snapshot
	err = s.records.WithTransaction(ctx, false, func(ctx context.Context) error {
		sn, err = storage.GetSnapshot(ctx, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the layer %s: %w", key, err)
	}
	return s.mounts(sn), nil
}

func (s *Snapshotter) mounts(sn storage.Snapshot) []mount.Mount {
	m := mount.Mount{Type: "bind", Source: s.tree(sn.ID), Options: []string{"rbind", "rw"}}
	if sn.Kind == snapshots.KindView {
		m.Options[1] = "ro"
		if len(sn.ParentIDs) > 0 {
			m.Source = s.tree(sn.ParentIDs[0])
		}
	}
	return []mount.Mount{m}
}

// Commit implements snapshots.Snapshotter.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	usage, err := s.Usage(ctx, key)
	if err != nil {
		return fmt.Errorf("measure the layer %s: %w", key, err)
	}
	return s.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, key, name, usage, opts...)
		return err
	})
}

// Remove implements snapshots.Snapshotter.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	var folder string
	err := s.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		id, _, err := storage.Remove(ctx, key)
		folder = s.folder(id)
		return err
	})
	if err != nil {
		return err
	}
	return s.delete(folder) // what a crash leaves of it, Cleanup removes
}

func (s *Snapshotter) delete(folder string) error { return Delete(s.kind, folder) }

// Delete removes the folder of a snapshot with all that a Kind has made there, though
// it was killed meanwhile.
func Delete(kind Kind, folder string) error {
	err := disk.Detach(folder) // or a disk would be emptied, and stay
	for _, tree := range []string{"fs", limitedName} {
		if err == nil {
			err = kind.Delete(filepath.Join(folder, tree))
		}
	}
	if err == nil {
		err = os.RemoveAll(folder)
	}
	if err != nil {
		return fmt.Errorf("delete the layer in %s: %w", folder, err)
	}
	return nil
}

// Cleanup removes the folders of layers that are gone.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	var known map[string]string
	list, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
	if err != nil {
		return err
	}
	err = s.records.WithTransaction(ctx, false, func(ctx context.Context) error {
		known, err = storage.IDMap(ctx)
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range list {
		if _, ok := known[d.Name()]; !ok && !strings.HasPrefix(d.Name(), "new-") {
			errs = append(errs, s.delete(s.folder(d.Name())))
		}
	}
	return errors.Join(errs...)
}

// Walk implements snapshots.Snapshotter.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.records.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err != nil {
				return err
			}
			return fn(ctx, s.labelled(id, info))
		}, filters...)
	})
}

// Close implements snapshots.Snapshotter. It lets go of disks; who runs keeps them.
func (s *Snapshotter) Close() error {
	list, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
	errs := []error{err, s.records.Close()}
	for _, d := range list {
		if loop.File(s.folder(d.Name())) == "" {
			continue
		}
		err := unix.Unmount(s.tree(d.Name()), unix.UMOUNT_NOFOLLOW)
		if err != nil && err != unix.EINVAL && err != unix.EBUSY && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("unmount %s: %w", s.tree(d.Name()), err))
		}
	}
	return errors.Join(errs...)
}
