package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/disk"
)

// Labels of leases; the value is the digest of what is, or was, pulled.
const (
	pullLabel = "hezi.pull"
	leftLabel = "hezi.left" // holds what a pull had downloaded when it was cut off
)

// mayPass says whether the next try of a pull may succeed: the client went
// away, or the registry failed.
func mayPass(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err) && !disk.IsFull(err)
}

// leaveDownloads keeps the whole blobs of a pull that is cut off for a day.
// Halves keep themselves (see fetch.plain), unpacked layers are made again.
func (s *depot) leaveDownloads(leased context.Context, of string) {
	id, ok := leases.FromContext(leased)
	if !ok {
		return
	}
	if err := s.leave(context.WithoutCancel(leased), id, of); err != nil {
		s.log.Warn("what was downloaded cannot be kept for the next try", "of", of, "error", err)
	}
}

// leave moves the blobs of one lease to a new one.
func (s *depot) leave(ctx context.Context, id, of string) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		list, err := s.leases.ListResources(ctx, leases.Lease{ID: id})
		if err != nil {
			return err
		}
		left, err := s.leases.Create(ctx, leases.WithID("left-"+uuid.NewString()), leases.WithExpiration(leaseTime), leases.WithLabel(leftLabel, of))
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.Type != "content" {
				continue
			}
			if err := s.leases.AddResource(ctx, left, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgetDownloads gives up what earlier tries left: the image holds it now.
func (s *depot) forgetDownloads(ctx context.Context, of string) error {
	list, err := s.leases.List(ctx, fmt.Sprintf("labels.%q==%q", leftLabel, of))
	if err != nil {
		return fmt.Errorf("read the leases on image content: %w", err)
	}
	for _, l := range list {
		if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("give up the lease %s on image content: %w", l.ID, err)
		}
	}
	return nil
}

// dropOldLeases gives up what a killed daemon was about to make: nobody else
// uses this store, so no lease can be alive when it is opened. The collector
// then removes it, but for what pulls had downloaded: that stays for its day.
// dropped says whether there was any.
func (s *Service) dropOldLeases(ctx context.Context) (dropped bool, err error) {
	ctx = s.context(ctx)
	old, err := s.leases.List(ctx)
	if err != nil {
		return false, fmt.Errorf("read the leases on image content: %w", err)
	}
	for _, l := range old {
		if l.Labels[leftLabel] != "" {
			continue
		}
		if of := l.Labels[pullLabel]; of != "" {
			if err := s.leave(ctx, l.ID, of); err != nil {
				return false, fmt.Errorf("keep what a pull of %s had downloaded: %w", of, err)
			}
		}
		if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return false, fmt.Errorf("give up the lease %s on image content: %w", l.ID, err)
		}
	}
	return len(old) > 0, nil
}
