package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"hezi/internal/disk"
)

// Disk measures what the engine has on disk. *disk.Meter has it.
type Disk interface {
	Report(ctx context.Context, w disk.Want) (*disk.Report, error)
}

// systemDF answers GET /system/df. Hezi's own part is left out when types are
// asked for.
func systemDF(c *call) error {
	w, err := wanted(c)
	if err != nil {
		return err
	}
	r, err := c.backend.Disk.Report(c.ctx(), w)
	if err != nil {
		return err
	}
	verbose := c.flag("verbose") && c.version >= 52
	answer := usage{Hezi: r.Own}
	if c.version >= 52 {
		answer.current(r, verbose)
	}
	if !verbose { // also for clients of 1.52 that do not know its shape
		answer.legacy(c.version, r)
	}
	return c.writeJSON(http.StatusOK, answer)
}

// wanted are the types of the query; without any, and before API 1.42, all.
func wanted(c *call) (disk.Want, error) {
	types, ok := c.query()["type"]
	if c.version < 42 || !ok {
		return disk.Want{Images: true, Containers: true, Volumes: true, Own: true}, nil
	}
	var w disk.Want
	for _, t := range types {
		switch system.DiskUsageObject(t) {
		case system.ContainerObject:
			w.Containers = true
		case system.ImageObject:
			w.Images = true
		case system.VolumeObject:
			w.Volumes = true
		case system.BuildCacheObject:
		default:
			return w, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown object type: %s", t))
		}
	}
	return w, nil
}

// usage is the answer in both of its shapes, and what Hezi adds.
type usage struct {
	LayersSize int64               `json:"LayersSize,omitempty"`
	Images     []listedImage       `json:"Images,omitzero"`
	Containers []container.Summary `json:"Containers,omitzero"`
	Volumes    []volume.Volume     `json:"Volumes,omitzero"`
	BuildCache []build.CacheRecord `json:"BuildCache,omitzero"`
	system.DiskUsage
	Hezi *disk.Own `json:"Hezi,omitempty"`
}

func (u *usage) current(r *disk.Report, verbose bool) {
	if i := r.Images; i != nil {
		u.ImageUsage = &image.DiskUsage{ActiveCount: i.Active, TotalCount: int64(len(i.Items)), Reclaimable: i.Reclaimable, TotalSize: i.Size}
		if verbose {
			u.ImageUsage.Items = i.Items
		}
	}
	if c := r.Containers; c != nil {
		u.ContainerUsage = &container.DiskUsage{ActiveCount: c.Active, TotalCount: int64(len(c.Items)), Reclaimable: c.Reclaimable, TotalSize: c.Size}
		if verbose {
			u.ContainerUsage.Items = c.Items
		}
	}
	if v := r.Volumes; v != nil {
		u.VolumeUsage = &volume.DiskUsage{ActiveCount: v.Active, TotalCount: int64(len(v.Items)), Reclaimable: v.Reclaimable, TotalSize: v.Size}
		if verbose {
			u.VolumeUsage.Items = v.Items
		}
	}
}

func (u *usage) legacy(v apiVersion, r *disk.Report) {
	if r.Images != nil {
		u.LayersSize = r.Images.Size
		u.Images = imagesFor(51, r.Images.Items, nil) // with the containers, by which clients know what is used
		for i := range u.Images {
			if v < 44 {
				u.Images[i].VirtualSize = &u.Images[i].Size
			}
		}
	}
	if r.Containers != nil {
		u.Containers = nonNil(r.Containers.Items)
	}
	if r.Volumes != nil {
		u.Volumes = nonNil(r.Volumes.Items)
	}
	if r.Own != nil {
		u.BuildCache = []build.CacheRecord{}
	}
}
