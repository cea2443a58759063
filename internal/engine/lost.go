package engine

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
	"hezi/internal/engine/execs"
	"hezi/internal/keeper"
)

// lost is the part of the engine that finds again what the keeper has lost.
type lost struct{ *Engine }

const lostReason = "the keeper and its holder were killed, and the container ended before they were back: its exit code is not known"

// reconcile is called when the keeper was away. Its holder has given it all
// back, unless both were killed: then it is told again what runs, as far as it
// does, and what nobody knows is ended.
func (e lost) reconcile() {
	ran := slices.DeleteFunc(e.index.Of(""), func(v *execs.Execution) bool { return v.PID == 0 }) // not one that is being started
	list, err := e.o.Keeper.List(e.ctx)
	if err != nil {
		e.reconcileFailed("ask the keeper what runs", err)
		return
	}
	known := map[string]bool{}
	for _, s := range list {
		known[s.ID] = true
	}
	told := false
	for _, r := range e.all() {
		if r.running() && !known[r.ID] {
			if !told {
				e.o.Log.Warn("the keeper and its holder were killed: what runs is taken up again; terminals, standard inputs and what was written meanwhile are lost")
			}
			told = true
			if err := e.regain(r.ID); err != nil {
				e.reconcileFailed("take a container up again that the keeper had lost", err)
			}
		}
	}
	e.meet(ran, list)
	e.sweepProcesses(e.ctx)
}

func (e lost) reconcileFailed(what string, err error) {
	if e.ctx.Err() == nil {
		e.o.Log.Error(what, "error", err)
	}
}

// regain has the keeper take up a container that it has lost, or stores that it ended.
func (e lost) regain(id string) error {
	c, unlock, err := e.lockKnown(e.ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r := c.latest.Load()
	if !r.running() {
		unlock()
		return nil
	}
	if err = e.o.Keeper.Adopt(e.ctx, e.adoption(r)); err == nil {
		keepNames(e.ctx, &e.o, id)
	}
	unlock()
	if !errdefs.IsNotFound(err) {
		return err
	}
	return e.exited(id, box.Exit{Code: lostExit, At: time.Now().UTC(), Reason: lostReason})
}

// regainNow is regain for a request that found a container lost: who makes it may
// have the container's lock.
func (e lost) regainNow(ctx context.Context, id string) bool {
	c, err := e.entry(id)
	if err != nil {
		return false
	}
	r := c.latest.Load()
	if !r.running() || e.o.Keeper.Adopt(ctx, e.adoption(r)) != nil {
		return false
	}
	keepNames(ctx, &e.o, id)
	return true
}

func (e *records) adoption(r *record) keeper.AdoptRequest {
	log, err := output{e}.logConfig(r) // it was checked when the container was made
	if err != nil {
		e.o.Log.Warn("attributes of a container's log", "container", r.ID, "error", err)
	}
	return keeper.AdoptRequest{
		ContainerID: r.ID, PID: r.PID, StartedAt: r.Started, CgroupPaths: r.Cgroups, Pipes: r.Pipes,
		HostPID: !r.HostConfig.PidMode.IsPrivate(), Paused: r.State == container.StatePaused, Log: log,
	}
}

// sweepProcesses ends what runs of containers that nobody holds.
func (e lost) sweepProcesses(ctx context.Context) {
	swept, err := e.o.Keeper.Sweep(ctx, nil)
	for _, id := range swept {
		e.o.Log.Warn("processes of a container that is not held were ended", "container", id)
	}
	if err != nil && e.ctx.Err() == nil {
		e.o.Log.Error("end processes of containers that are not held", "error", err)
	}
}
