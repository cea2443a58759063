package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"

	"hezi/internal/disk"
	"hezi/internal/snapshot/erofs"
	"hezi/internal/snapshot/plain"
)

// form is how a storage driver keeps the layers of images.
type form struct {
	name  string // of the snapshotter in the metadata, and in gc labels
	dir   string // below the data root
	whole bool   // a layer has all that is in the layers below, too
	open  func(s *Service, root string, records layerRecords) (snapshots.Snapshotter, error)
	// seal finishes an unpacked layer, and measures it; nil: nothing is to be done.
	seal func(ctx context.Context, dir string) (snapshots.Usage, error)
	// ready makes sure that layers can be mounted; nil: they can if they are there.
	ready func(dirs []string) error
	// exchange gives a layer's place to another one; nil: their folders change names.
	exchange func(dir, place string) error
	shares   bool // with the layers below it, what is the same
}

func openOverlay(_ *Service, root string, records layerRecords) (snapshots.Snapshotter, error) {
	return overlay.NewSnapshotter(root, overlay.WithUpperdirLabel, overlay.WithMetaStore(records))
}

func openTrees(kind plain.Kind) func(*Service, string, layerRecords) (snapshots.Snapshotter, error) {
	return func(_ *Service, root string, records layerRecords) (snapshots.Snapshotter, error) {
		return plain.New(root, records, kind)
	}
}

// kinds are the trees of the drivers whose layers are whole.
var kinds = map[string]plain.Kind{"btrfs": plain.Subvolumes{}, "vfs": plain.NewCopies()}

// Kind is how a driver whose layers are whole makes its trees.
func Kind(driver string) plain.Kind { return kinds[driver] }

func openErofs(s *Service, root string, records layerRecords) (snapshots.Snapshotter, error) {
	inner, err := openOverlay(s, root, records)
	if err != nil {
		return nil, err
	}
	return erofs.Open(context.Background(), inner, upperLabel, func(dir string, err error) {
		s.log.Error("a layer cannot be mounted: its images cannot be used", "layer", dir, "error", err)
	})
}

// forms are those of all drivers, by the names of --storage-driver.
var forms = map[string]form{
	"overlay2":       {name: "overlayfs", dir: "layers", open: openOverlay},
	"fuse-overlayfs": {name: "overlayfs", dir: "layers", open: openOverlay},
	"erofs":          {name: "erofs", dir: "layers-erofs", open: openErofs, seal: erofs.Seal, ready: erofs.Ready, exchange: erofs.Exchange},
	"btrfs":          {name: "btrfs", dir: "layers-btrfs", whole: true, shares: true, open: openTrees(kinds["btrfs"])},
	"vfs":            {name: "vfs", dir: "layers-vfs", whole: true, open: openTrees(kinds["vfs"])},
}

func formOf(driver string) (form, error) {
	if driver == "" {
		driver = "overlay2"
	}
	f, ok := forms[driver]
	if !ok {
		return f, errdefs.ErrInvalidArgument.WithMessage("there is no storage driver " + driver)
	}
	return f, nil
}

// Storage is a Service as storage drivers see it.
type Storage struct{ *Service }

// Snapshots is the store of layers and of what containers have in it. collect deletes
// what was removed, soon.
func (s Storage) Snapshots() (store snapshots.Snapshotter, in func(context.Context) context.Context, collect func()) {
	return s.layers, s.context, func() {
		if !s.collecting.Swap(true) {
			s.inBackground(func(ctx context.Context) {
				s.collecting.Store(false)
				if err := s.CollectGarbage(ctx); err != nil && ctx.Err() == nil {
					s.log.Warn("delete the files of containers that were removed", "error", err)
				}
			})
		}
	}
}

// placeLayer gives the place of a layer to another one that was unpacked.
func (f *form) placeLayer(dir, place string) error {
	if f.exchange != nil {
		return f.exchange(dir, place)
	}
	return disk.Exchange(dir, place)
}

// sharedBelow is what of a whole layer the layers below take already.
func sharedBelow(ctx context.Context, s *depot, below string) (total snapshots.Usage, err error) {
	for ctx = s.context(ctx); below != ""; {
		u, err := s.layers.Usage(ctx, below)
		if err != nil {
			return total, err
		}
		info, err := s.layers.Stat(ctx, below)
		if err != nil {
			return total, err
		}
		total.Size, total.Inodes, below = total.Size+u.Size, total.Inodes+u.Inodes, info.Parent
	}
	return total, nil
}

// Elsewhere tells how many images are unpacked for other drivers, by their
// folders, and have no layers for this one yet.
func (s Storage) Elsewhere(ctx context.Context) (map[string][]string, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{} // to driver
	for driver, f := range forms {
		if f.name != s.form.name && driver != "fuse-overlayfs" {
			labels["containerd.io/gc.ref.snapshot."+f.name] = driver
		}
	}
	out := map[string][]string{}
	err = s.blobs.Walk(s.context(ctx), func(i content.Info) error {
		if _, here := i.Labels["containerd.io/gc.ref.snapshot."+s.form.name]; here {
			return nil
		}
		for label, driver := range labels {
			if _, there := i.Labels[label]; there {
				out[driver] = append(out[driver], i.Digest.String())
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for images of other storage drivers: %w", err)
	}
	for driver, configs := range out {
		has := map[string]bool{}
		for _, d := range configs {
			has[d] = true
		}
		out[driver] = s.namesOf(ctx, c, has)
	}
	return out, nil
}

// namesOf are the images with one of these configs, as users write them.
func (s Storage) namesOf(ctx context.Context, c *catalog, configs map[string]bool) (list []string) {
	for _, same := range c.byDigest {
		in, err := s.read(ctx, c, same[0].Target)
		if err != nil {
			continue
		}
		for _, v := range in.variants {
			if configs[v.manifest.Config.Digest.String()] {
				list = append(list, shownName(same[0].Name, same[0].Target.Digest))
				break
			}
		}
	}
	return list
}

// over says whether a layer is unpacked over those below always.
func (b *builder) over() bool { return b.s.form.whole && b.layer.parent != "" }
