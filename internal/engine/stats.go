package engine

import (
	"context"
	"slices"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine/usage"
)

// StatsOptions of GET /containers/{id}/stats.
type StatsOptions struct {
	Stream  bool
	OneShot bool // without an earlier sample, and so without waiting for one; not of a stream
}

func newLimits(r *records) *Limits {
	return &Limits{r, usage.New(r.ctx, &r.work, func(id string) (usage.Run, bool) {
		c, err := r.entry(id)
		if err != nil || c.latest.Load().State == container.StateRemoving {
			return usage.Run{}, false
		}
		return run(c.latest.Load()), true
	})}
}

func run(r *record) usage.Run {
	u := usage.Run{ID: r.ID, Name: r.Name, HostNetwork: r.HostConfig.NetworkMode.IsHost()}
	if r.running() {
		u.PID, u.Cgroups = r.PID, r.Cgroups
	}
	return u
}

// Stats gives a container's counters to out: once, or each second until ctx
// ends or the container is removed. A container that does not run has empty ones.
// Each has the sample before it (PreCPUStats), the first of a stream too.
func (e *Limits) Stats(ctx context.Context, ref string, o StatsOptions, out func(*container.StatsResponse) error) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	if o.OneShot && !o.Stream {
		return out(e.samples.Once(run(r)))
	}
	var updates chan *container.StatsResponse
	if o.Stream {
		var leave func()
		updates, leave = e.samples.Subscribe(r.ID)
		defer leave()
	}
	list, err := e.samples.Twice(ctx, []string{r.ID}, false)
	if err != nil {
		return err
	}
	last := list[0]
	for {
		if err := out(last); err != nil || !o.Stream {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case next, ok := <-updates:
			if !ok {
				return nil // removed
			}
			s := *next // others have it too
			if !last.Read.IsZero() && !s.Read.IsZero() && s.CPUStats.CPUUsage.TotalUsage >= last.CPUStats.CPUUsage.TotalUsage {
				s.PreRead, s.PreCPUStats = last.Read, last.CPUStats
			}
			last = &s
		}
	}
}

// StatsOf gives the counters that people look at of many containers at one
// time: of those that are named in their order, or of all that run, the newest
// first. With all, those that do not run are there too.
func (e *Limits) StatsOf(ctx context.Context, refs []string, all bool) ([]*container.StatsResponse, error) {
	var ids []string
	for _, ref := range refs {
		c, err := e.find(ref)
		if err != nil {
			return nil, err
		}
		ids = append(ids, c.latest.Load().ID)
	}
	if len(refs) == 0 {
		list := slices.DeleteFunc(e.all(), func(r *record) bool { return !r.running() && (!all || r.State == container.StateRemoving) })
		slices.SortFunc(list, func(a, b *record) int { return b.Created.Compare(a.Created) }) // as ps
		for _, r := range list {
			ids = append(ids, r.ID)
		}
	}
	return e.samples.Twice(ctx, ids, true)
}
