package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"hezi/internal/image/sweep"
	"hezi/internal/snapshot/plain"
)

// refuseHeadless refuses content without its database: all of it would count
// as garbage, also what runs.
func refuseHeadless(root string) error {
	left, err := (&sweep.Store{Root: root}).HasContent()
	if err != nil || !left {
		return err
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
		"%[1]s/images.db is missing, but %[1]s/content and %[1]s/layers hold images: put the file back; or, with no container running, move both folders away and pull again", root))
}

// reconcile removes what a former hezid was in the middle of making or of
// removing, before anything new is made.
func (s *Service) reconcile(ctx context.Context) error {
	s.sweeper = sweep.Store{Root: s.root, View: s.bolt.View, Layers: s.base, Dir: s.form.dir, Snapshotter: s.form.name, UpperLabel: upperLabel, Log: s.log}
	if kind, ok := kinds[s.form.name]; ok {
		s.sweeper.Delete = func(folder string) error { return plain.Delete(kind, folder) }
	}
	o, err := s.sweeper.Find(ctx)
	if err != nil {
		return err
	}
	if len(o.Lost) > 0 {
		s.log.Error("layers are missing in "+s.form.dir+"/metadata.db: their images cannot be used; repair them with `hezi system check --images --repair`", "layers", len(o.Lost))
	}
	if err := s.sweeper.Discard(s.context(ctx), o); err != nil {
		return err
	}
	return settle(s.root, s.form.dir)
}

// settle makes the folders themselves survive a power cut; what is put into
// them is synced by those who do.
func settle(root, layers string) error {
	if err := os.MkdirAll(filepath.Join(root, "content", "blobs", "sha256"), 0o755); err != nil {
		return fmt.Errorf("make the content store: %w", err)
	}
	for _, dir := range []string{"content/blobs/sha256", "content/blobs", "content", layers + "/snapshots", layers, ".", ".."} {
		f, err := os.Open(filepath.Join(root, dir))
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return fmt.Errorf("put the folders of images on disk: %w", err)
		}
	}
	return nil
}
