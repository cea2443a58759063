package image

import (
	"context"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/disk"
)

// cleaning lets what removes use the reserve of disk space: a database that
// cannot grow cannot forget either. What adds must not.
type cleaning struct {
	count   atomic.Int32
	release func() bool // gives the reserve up, once; nil: there is none
}

// begin is for the length of a removal.
func (c *cleaning) begin() (end func()) {
	c.count.Add(1)
	return func() { c.count.Add(-1) }
}

// may says whether a transaction that failed for a full disk is to be tried
// again.
func (c *cleaning) may(err error) bool {
	return disk.IsFull(err) && c.count.Load() > 0 && c.release != nil && c.release()
}

// records is images.db for the metadata.
type records struct {
	*bolt.DB
	cleaning *cleaning
}

// Update tries again with the reserve when the commit found the disk full, not
// when f did: what f does to files is not to be done twice.
func (r records) Update(f func(*bolt.Tx) error) error {
	var inner error
	run := func(tx *bolt.Tx) error {
		inner = f(tx)
		return inner
	}
	err := r.DB.Update(run)
	if err != nil && inner == nil && r.cleaning.may(err) {
		err = r.DB.Update(run)
	}
	return err
}

// layerRecords is layers/metadata.db for the snapshotter.
type layerRecords struct {
	*storage.MetaStore
	cleaning *cleaning
}

// WithTransaction is as records.Update.
func (l layerRecords) WithTransaction(ctx context.Context, writable bool, f storage.TransactionCallback) error {
	var inner error
	run := func(ctx context.Context) error {
		inner = f(ctx)
		return inner
	}
	err := l.MetaStore.WithTransaction(ctx, writable, run)
	if err != nil && writable && inner == nil && l.cleaning.may(err) {
		err = l.MetaStore.WithTransaction(ctx, writable, run)
	}
	return err
}
