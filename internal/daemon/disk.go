package daemon

import (
	"context"
	"log/slog"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/volume"

	"hezi/internal/daemon/config"
	"hezi/internal/disk"
	"hezi/internal/engine"
	"hezi/internal/image"
	vol "hezi/internal/volume"
)

// diskRoom measures the data root and keeps it within its budget.
type diskRoom struct {
	*disk.Meter
	budget *disk.Budget
	stop   context.CancelFunc
	done   chan struct{}
}

func openDisk(c *config.Config, log *slog.Logger, reserve *disk.Reserve, imgs *image.Service, boxes *engine.Engine, vols *vol.Store, places func(id string) []string) *diskRoom {
	keep := image.Upkeep{Service: imgs}
	m := &disk.Meter{
		Root: c.DataRoot, Images: keep.DiskUsage, Places: places, VolumeUsers: boxes.VolumeUsers,
		Containers: func(ctx context.Context) ([]container.Summary, error) {
			return boxes.List(ctx, engine.ListOptions{All: true})
		},
		Volumes: func(ctx context.Context) ([]volume.Volume, error) { return vols.List(ctx, nil) },
	}
	d := &diskRoom{Meter: m, budget: disk.NewBudget(m, keep, reserve, c.DiskBudget, log), done: make(chan struct{})}
	d.budget.Trash = vol.Bin{Store: vols}.Evict
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	go func() {
		defer close(d.done)
		var trash sync.WaitGroup
		trash.Go(func() { vol.Bin{Store: vols}.KeepTrash(ctx) })
		d.budget.Run(ctx)
		trash.Wait()
	}()
	return d
}

func (d *diskRoom) close() error {
	d.stop()
	<-d.done
	return nil
}

// resizes says whether an image's event may have made the data root larger, or
// smaller, so that the reserve can be made again.
func resizes(action string) bool {
	switch action {
	case "pull", "load", "import", "create", "tag", "delete", "prune":
		return true
	}
	return false
}
