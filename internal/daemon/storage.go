package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"hezi/internal/daemon/config"
	"hezi/internal/image"
	"hezi/internal/snapshot"
	"hezi/internal/snapshot/choose"
)

// storage is the storage driver of a data root.
type storage struct {
	choose.Choice
	snapshot.Driver
	imgs image.Storage
	// places are where a container's files are that are not in writable/; nil: all are.
	places func(id string) []string
}

// openStorage makes containers' file systems where images are.
func openStorage(ctx context.Context, c *config.Config, log *slog.Logger, imgs *image.Service, choice choose.Choice, onClose func(func() error)) (_ *storage, err error) {
	own, err := snapshot.Open(filepath.Join(c.DataRoot, "writable"), log)
	if err != nil {
		return nil, fmt.Errorf("the containers' layers: %w", err)
	}
	onClose(own.Close)
	s := &storage{Choice: choice, imgs: image.Storage{Service: imgs}}
	switch choice.Driver {
	case "fuse-overlayfs":
		program, err := exec.LookPath(choose.FuseProgram)
		if err != nil {
			return nil, fmt.Errorf("the storage driver fuse-overlayfs: %w", err)
		}
		s.Driver = &snapshot.Fuse{Store: own, Program: program}
	case "btrfs", "vfs":
		trees, in, collect := s.imgs.Snapshots()
		whole := &snapshot.Whole{As: choice.Driver, Trees: trees, Context: in, Kind: image.Kind(choice.Driver), Lowest: own, Collect: collect}
		s.Driver, s.places = whole, whole.Places
	default:
		s.Driver = &snapshot.Overlay{Store: own, As: choice.Driver}
	}
	size, err := c.LayerSize()
	if err == nil && size > 0 {
		err = s.Driver.CanLimit(size)
	}
	if err != nil {
		return nil, fmt.Errorf("storage-opts: %w", err)
	}
	log.Info("storage driver", "driver", choice.Driver, "reason", choice.Reason)
	if choice.Before != "" {
		log.Warn("the storage driver is another one than before: containers that were made with the other one keep their files, and can be used with it alone", "driver", choice.Driver, "before", choice.Before)
	}
	for driver, names := range s.elsewhere(ctx) {
		log.Warn("images are unpacked for another storage driver: they are kept, and each is unpacked for this one when it is first used, without a download", "other", driver, "images", strings.Join(names, " "))
	}
	return s, nil
}

// elsewhere are images that are unpacked for other drivers alone.
func (s *storage) elsewhere(ctx context.Context) map[string][]string {
	all, err := s.imgs.Elsewhere(ctx)
	if err != nil {
		return nil // info is answered without
	}
	for _, names := range all {
		slices.Sort(names)
	}
	return all
}

// status is what info says of the driver.
func (s *storage) status(ctx context.Context, root string) [][2]string {
	out := [][2]string{{"Backing Filesystem", backingFilesystem(root)}, {"Supports d_type", "true"}, {"driver-type", "io.containerd.snapshotter.v1"}, {"Chosen because", s.Reason}}
	elsewhere := s.elsewhere(ctx)
	for _, driver := range choose.Drivers() {
		if names := elsewhere[driver]; len(names) > 0 {
			out = append(out, [2]string{"Images of " + driver, strings.Join(names, " ") + " (kept there; unpacked for " + s.Choice.Driver + " when they are used, without a download)"})
		}
	}
	return out
}
