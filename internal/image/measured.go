package image

import (
	"context"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// measured is the overlay snapshotter, which walks a layer in the transaction
// that commits it. What was measured before needs no walk while all others wait.
type measured struct {
	snapshots.Snapshotter
	records layerRecords
}

type usageKey struct{}

// withUsage says how much the layer takes that is committed with the context.
func withUsage(ctx context.Context, u snapshots.Usage) context.Context {
	return context.WithValue(ctx, usageKey{}, u)
}

func (m measured) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	u, ok := ctx.Value(usageKey{}).(snapshots.Usage)
	if !ok {
		return m.Snapshotter.Commit(ctx, name, key, opts...)
	}
	return m.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, key, name, u, opts...)
		return err
	})
}

// Cleanup removes the folders of layers that were removed.
func (m measured) Cleanup(ctx context.Context) error {
	if c, ok := m.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return nil
}

// settles is from which size, in bytes, a file may get blocks of its own for
// the list of its parts when it is written to the disk.
const settles = 512 << 10

// meter counts what a layer takes on disk, as du does. Most of it is counted
// while the disk is still busy; finish looks at what may have changed since.
type meter struct {
	usage snapshots.Usage
	links map[uint64]struct{} // inodes with several names
	large map[string]int64    // blocks of large files, as counted
}

func measure(ctx context.Context, root string) (*meter, error) {
	m := &meter{links: map[uint64]struct{}{}, large: map[string]int64{}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !d.IsDir() {
			if _, known := m.links[st.Ino]; known {
				return nil
			}
			m.links[st.Ino] = struct{}{}
		}
		if st.Size >= settles {
			m.large[path] = st.Blocks
		}
		m.usage.Inodes++
		m.usage.Size += st.Blocks * 512 // stat(2)
		return nil
	})
	return m, err
}

func (m *meter) finish() (snapshots.Usage, error) {
	for path, counted := range m.large {
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return snapshots.Usage{}, err
		}
		m.usage.Size += (st.Blocks - counted) * 512
	}
	return m.usage, nil
}
