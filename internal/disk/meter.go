package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sync/singleflight"
)

// ImageUsage is what images take. The bytes on disk of each are counted when it
// is unpacked; nothing is walked.
type ImageUsage struct {
	Items             []image.Summary // with SharedSize and Containers
	Active            int64           // that containers use
	Size, Reclaimable int64
	Blobs, Folders    map[string]bool // names of the files and folders that were counted
	Layers            string          // where the folders are, below the data root; "": layers
}

// ContainerUsage is what the containers' own layers take.
type ContainerUsage struct {
	Items             []container.Summary // SizeRw is on disk
	Active            int64
	Size, Reclaimable int64
}

// VolumeUsage is what volumes take.
type VolumeUsage struct {
	Items             []volume.Volume // with UsageData
	Active            int64
	Size, Reclaimable int64
}

// Part is some of what Docker does not tell of.
type Part struct {
	Count       int64
	Size        int64
	Reclaimable int64
}

// Own is Hezi's part of GET /system/df. With the images', the containers' and
// the volumes' size its parts are Total, which is what du counts.
type Own struct {
	DataRoot string
	Total    int64
	// Logs are the folders of containers with their logs and files of /etc.
	Logs Part
	// Downloads are on their way, or were cut off.
	Downloads Part
	// Metadata are the databases and the folders that hold everything.
	Metadata Part
	// Removed is being deleted.
	Removed Part
	// Reserve is the file that is given up when clean-up needs space.
	Reserve Part
	// DiskSize and DiskFree are of the file system.
	DiskSize, DiskFree int64
	Budget             *BudgetState `json:",omitempty"`

	volumes int64 // bytes, which no budget counts
}

// Report is what the data root holds. What was not asked for is nil.
type Report struct {
	Images     *ImageUsage
	Containers *ContainerUsage
	Volumes    *VolumeUsage
	Own        *Own
}

// Want says what a report is to have; Own needs the others.
type Want struct{ Images, Containers, Volumes, Own bool }

// Meter measures a data root. It holds no lock of anybody's.
type Meter struct {
	Root       string
	Images     func(ctx context.Context) (*ImageUsage, error)
	Containers func(ctx context.Context) ([]container.Summary, error)
	Volumes    func(ctx context.Context) ([]volume.Volume, error)
	// VolumeUsers are the containers that have a volume.
	VolumeUsers func(name string) []string
	Budget      *Budget // nil: none
	// Places are the trees of a container whose files are among the layers, each below
	// a folder of its own; nil: there are none, all are in writable.
	Places func(id string) []string

	flight singleflight.Group // several that ask for the same are answered by one walk
}

// Report measures. The walk goes on for others when ctx ends.
func (m *Meter) Report(ctx context.Context, w Want) (*Report, error) {
	c := m.flight.DoChan(fmt.Sprint(w), func() (any, error) { return m.report(context.WithoutCancel(ctx), w) })
	select {
	case r := <-c:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Report), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *Meter) report(ctx context.Context, w Want) (*Report, error) {
	r := &Report{}
	var err error
	if w.Images {
		if r.Images, err = m.Images(ctx); err != nil {
			return nil, err
		}
	}
	if w.Containers {
		if r.Containers, err = m.containers(ctx, r.Images); err != nil {
			return nil, err
		}
	}
	if w.Volumes {
		if r.Volumes, err = m.volumes(ctx); err != nil {
			return nil, err
		}
	}
	if w.Own && w.Images && w.Containers && w.Volumes {
		r.Own, err = m.own(ctx, r)
	}
	return r, err
}

func (m *Meter) path(parts ...string) string {
	return filepath.Join(append([]string{m.Root}, parts...)...)
}

func (m *Meter) containers(ctx context.Context, images *ImageUsage) (*ContainerUsage, error) {
	list, err := m.Containers(ctx)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	if images != nil {
		for _, i := range images.Items {
			sizes[i.ID] = i.Size
		}
	}
	u := &ContainerUsage{Items: list}
	for i := range list {
		c := &list[i]
		dirs := m.folders(c.ID)
		if len(dirs) == 0 {
			dirs, c.SizeRootFs = []string{m.path("writable", c.ID)}, sizes[c.ImageID]
		} else {
			c.SizeRootFs = 0 // the folders have what is the image's
		}
		c.SizeRw = 0
		for _, dir := range dirs {
			n, err := Usage(ctx, dir)
			if err != nil {
				return nil, err
			}
			c.SizeRw += n
		}
		c.SizeRootFs += c.SizeRw
		c.ImageManifestDescriptor = nil // as Docker has it
		u.Size += c.SizeRw
		switch c.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			u.Active++
		default:
			u.Reclaimable += c.SizeRw
		}
	}
	return u, nil
}

// folders are those of a container whose files are among the layers.
func (m *Meter) folders(id string) (dirs []string) {
	if m.Places == nil {
		return nil
	}
	for _, tree := range m.Places(id) {
		dirs = append(dirs, filepath.Dir(tree))
	}
	return dirs
}

func (m *Meter) volumes(ctx context.Context) (*VolumeUsage, error) {
	list, err := m.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	u := &VolumeUsage{Items: list}
	for i := range list {
		v := &list[i]
		v.UsageData = &volume.UsageData{RefCount: int64(len(m.VolumeUsers(v.Name)))}
		if v.Options["device"] != "" { // what is mounted there is of another place
			v.UsageData.Size = Blocks(m.path("volumes", v.Name)) + Blocks(m.path("volumes", v.Name, "_data"))
		} else if v.UsageData.Size, err = Usage(ctx, m.path("volumes", v.Name)); err != nil {
			return nil, err
		}
		u.Size += v.UsageData.Size
		if v.UsageData.RefCount > 0 {
			u.Active++
		} else {
			u.Reclaimable += v.UsageData.Size
		}
	}
	return u, nil
}

// own measures the rest of the data root.
func (m *Meter) own(ctx context.Context, r *Report) (*Own, error) {
	o := &Own{DataRoot: m.Root, volumes: r.Volumes.Size}
	volumes, containers := map[string]bool{}, map[string]bool{}
	for _, v := range r.Volumes.Items {
		volumes[v.Name] = true
	}
	folders := maps.Clone(r.Images.Folders)
	if folders == nil {
		folders = map[string]bool{}
	}
	for _, c := range r.Containers.Items {
		containers[c.ID] = true
		for _, folder := range m.folders(c.ID) {
			folders[filepath.Base(folder)] = true
		}
	}
	layers := cmp.Or(r.Images.Layers, "layers")
	count := func(p *Part) func(string, int64) {
		return func(_ string, n int64) {
			p.Count++
			p.Size += n
		}
	}
	metadata := func(_ string, n int64) { o.Metadata.Size += n }
	removed := func(name string, n int64) {
		if strings.HasPrefix(name, ".") {
			count(&o.Removed)(name, n)
		} else {
			metadata(name, n)
		}
	}
	known := map[string]bool{"containers": true, "unsent": true, "writable": true, "volumes": true, "content": true, layers: true, "trash": true, ReserveName: true}
	for _, part := range []struct {
		dir  string
		skip map[string]bool // counted already
		add  func(name string, n int64)
	}{
		{"containers", nil, count(&o.Logs)},
		{"unsent", nil, count(&o.Logs)},
		{"writable", containers, removed},
		{"volumes", volumes, removed},
		{"content/blobs/sha256", r.Images.Blobs, count(&o.Downloads)},
		{"content/blobs", map[string]bool{"sha256": true}, metadata},
		{"content/ingest", nil, count(&o.Downloads)},
		{"content", map[string]bool{"blobs": true, "ingest": true}, metadata},
		{layers + "/snapshots", folders, count(&o.Downloads)},
		{layers, map[string]bool{"snapshots": true}, metadata},
		{"trash", nil, count(&o.Removed)},
		{"", known, metadata},
	} {
		dir := m.path(filepath.FromSlash(part.dir))
		o.Metadata.Size += Blocks(dir)
		if err := each(ctx, dir, part.skip, part.add); err != nil {
			return nil, err
		}
	}
	if n := Blocks(m.path(ReserveName)); n > 0 {
		count(&o.Reserve)("", n)
	}
	o.Downloads.Reclaimable = o.Downloads.Size
	o.Total = r.Images.Size + r.Containers.Size + r.Volumes.Size + o.Logs.Size + o.Downloads.Size + o.Metadata.Size + o.Removed.Size + o.Reserve.Size
	var err error
	if o.DiskFree, o.DiskSize, err = space(m.Root); err != nil {
		return nil, err
	}
	if m.Budget != nil {
		o.Budget = m.Budget.State(o)
	}
	return o, nil
}

// each measures what is in a folder, but for what was counted already.
func each(ctx context.Context, dir string, skip map[string]bool, add func(name string, n int64)) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		if skip[e.Name()] {
			continue
		}
		n, err := Usage(ctx, filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		add(e.Name(), n)
	}
	return nil
}
