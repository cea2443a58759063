package engine

import (
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
)

// tellOOM publishes that a container is out of memory.
func (e *records) tellOOM(ev keeper.Event) {
	if c, err := e.entry(ev.ContainerID); err == nil {
		e.publish(c.latest.Load(), events.ActionOOM)
	}
}

// noteOOM records that the kernel killed a process of a container that runs on.
func (e *records) noteOOM(ev keeper.Event) error {
	c, unlock, err := e.lockKnown(e.ctx, ev.ContainerID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if r := c.latest.Load(); !ev.Killed || !r.running() || r.PID != ev.PID || r.OOM {
		return nil // the exit tells, or has told
	}
	_, err = e.change(c, func(r *record) { r.OOM = true })
	return err
}

// missedOOM says whether the kernel killed a process of a container that runs on
// while no hezid was there to be told.
func missedOOM(e *records, r *record) bool {
	if r.OOM || len(r.Cgroups) == 0 {
		return false
	}
	g, err := cgroup.Open(r.Cgroups)
	var kills uint64
	if err == nil {
		kills, err = g.OOMKills()
	}
	if err != nil {
		e.o.Log.Warn("find out whether a container was out of memory", "container", r.ID, "error", err)
	}
	return kills > 0
}
