package engine

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/box"
	"hezi/internal/keeper"
)

// The pause before an exit that could not be stored (a full disk) is tried again.
const (
	exitRetry     = time.Second
	lastExitRetry = time.Minute
)

// follow takes the keeper's events until the engine ends. An event is handled
// beside the others, each container's in their order by its lock.
func (e *Engine) follow() {
	again := false
	connected := func() {
		if again {
			e.work.Go(lost{e}.reconcile)
		}
		again = true // Restore was before the first time
	}
	err := e.o.Keeper.Subscribe(e.ctx, connected, func(ev keeper.Event) {
		if ev.Type == keeper.EventExecExit { // before its container's
			e.execExited(ev.ContainerID, ev.ExecID, *ev.Exit)
			return
		}
		if ev.Type == keeper.EventOOM { // before the exit that it may be the reason of
			e.tellOOM(ev)
		}
		e.work.Go(func() { e.handle(ev) })
	})
	if err != nil && e.ctx.Err() == nil {
		e.o.Log.Error("the keeper's events ended: containers' exits are not noticed until hezid is restarted", "error", err)
	}
}

func (e *Engine) handle(ev keeper.Event) {
	switch ev.Type {
	case keeper.EventExit:
		for wait := exitRetry; ; wait = min(2*wait, lastExitRetry) {
			err := e.exited(ev.ContainerID, *ev.Exit)
			c, cerr := e.entry(ev.ContainerID)
			if cerr == nil {
				c.unstored.Store(nil)
			}
			if err == nil || e.ctx.Err() != nil {
				return
			}
			if cerr == nil {
				c.unstored.Store(&err)
			}
			e.o.Log.Error("an exit could not be stored: it is tried again", "container", ev.ContainerID, "after", wait, "error", err)
			select {
			case <-time.After(wait):
			case <-e.ctx.Done():
				return
			}
		}
	case keeper.EventOOM:
		if err := e.noteOOM(ev); err != nil && e.ctx.Err() == nil {
			e.o.Log.Error("store that the kernel killed for lack of memory", "container", ev.ContainerID, "error", err)
		}
	case keeper.EventDetach:
		if c, err := e.entry(ev.ContainerID); err == nil {
			e.publish(c.latest.Load(), events.ActionDetach)
		}
	}
}

// exited stores a container's exit, gives back what the run had, and does
// what comes after: --rm or the restart policy.
//
// The keeper acknowledges once the output is through, which a client that reads
// slowly may hold up: the container is not locked meanwhile.
func (e *Engine) exited(id string, exit box.Exit) error {
	c, again, err := e.ended(id, exit)
	if err != nil || c == nil {
		return err
	}
	// A start that came before has acknowledged it, and the container runs again.
	if err := e.o.Keeper.Forget(e.ctx, id, false); err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	if !again {
		return nil
	}
	_, unlock, err := e.lockEntry(e.ctx, c, id)
	if errdefs.IsNotFound(err) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer unlock()
	if r := c.latest.Load(); r.State == container.StateRestarting && c.restart == nil {
		e.restartLater(c, r)
	}
	return nil
}

// ended is what exited does under the lock. A nil entry has nothing to acknowledge.
func (e *Engine) ended(id string, exit box.Exit) (_ *entry, again bool, _ error) {
	c, unlock, err := e.lockKnown(e.ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, false, e.o.Keeper.Forget(e.ctx, id, true) // removed already
	}
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	r := c.latest.Load()
	if !r.running() {
		if c.removing {
			return nil, false, nil
		}
		return c, r.State == container.StateRestarting, nil // known already
	}
	again = e.restarts(c, r, exit)
	if r.scoped() {
		scoping{e.records}.leave(id)
	}
	hooks := r.Hooks
	vital := e.checks.end(c)
	code := exit.Code
	r, err = e.change(c, func(r *record) {
		r.State = container.StateExited
		if again {
			r.State = container.StateRestarting
			r.Restarts++
		}
		r.Exit, r.OOM, r.Finished, r.Error = code, exit.OOMKilled, exit.At.UTC(), exit.Reason
		r.PID, r.Cgroups, r.Net, r.Stopping, r.Hooks = 0, nil, nil, nil, nil
		if vital != nil {
			r.Health = vital
		}
	})
	if err != nil {
		return nil, false, err
	}
	e.publish(r, events.ActionDie, "exitCode", strconv.Itoa(code), "execDuration", strconv.Itoa(int(r.Finished.Sub(r.Started).Seconds())))
	if n := e.o.Defaults.Restarts.loop(); again && n > 0 && c.short == n {
		e.publish(r, actionCrashLoop, "exitCode", strconv.Itoa(code), "restartCount", strconv.Itoa(r.Restarts), "backoff", c.backoff.String())
	}
	if c.over != nil {
		close(c.over)
		c.over = nil
	}
	e.execsEnded(id)
	release(e.records, r)
	relink(e.records, r)
	removed := r.HostConfig.AutoRemove && c.again == 0 && !c.removing
	unhook(e.records, c, hooks, func() {
		if removed {
			removeUnhooked(e, c, id)
		}
	})
	switch {
	case c.removing: // who removes acknowledges the exit
		return nil, false, nil
	case removed && hooks != nil:
		return nil, false, nil
	case removed:
		return nil, false, e.remove(c, RemoveOptions{Volumes: true})
	}
	return c, again, nil
}

// restarts says whether the policy starts the container again, and how long to wait.
func (e *Engine) restarts(c *entry, r *record, exit box.Exit) bool {
	p, d := r.HostConfig.RestartPolicy, &e.o.Defaults.Restarts
	if r.Stopped || c.removing || e.ctx.Err() != nil {
		return false
	}
	if e.checks.heals(c, r) {
		c.backoff = e.checks.healed(c)
		return true
	}
	switch {
	case p.IsAlways(), p.IsUnlessStopped():
	case p.IsOnFailure():
		if exit.Code == 0 || r.retried() {
			return false
		}
	default:
		return false
	}
	if exit.At.Sub(r.Started) >= d.reset() {
		c.backoff, c.short = 0, 0
	}
	c.backoff = d.after(c.backoff)
	c.short++
	return true
}

// retried says whether on-failure:N has had its N restarts.
func (r *record) retried() bool {
	p := r.HostConfig.RestartPolicy
	return p.IsOnFailure() && p.MaximumRetryCount > 0 && r.Restarts >= p.MaximumRetryCount
}

// restartLater starts the container when its back-off is over.
func (e *Engine) restartLater(c *entry, r *record) {
	c.restart = time.AfterFunc(c.backoff, func() {
		_, unlock, err := e.lockEntry(e.ctx, c, r.ID)
		if err != nil {
			return
		}
		defer unlock()
		if c.restart == nil || c.latest.Load().State != container.StateRestarting {
			return // cancelled
		}
		c.restart = nil
		if err := e.start(e.ctx, c, true); err != nil && e.ctx.Err() == nil {
			e.o.Log.Error("the restart policy could not start a container", "container", r.ID, "error", err)
			e.retry(c, r)
		}
	})
}

// retry keeps a policy's promise when a restart failed: mounts and networks come late.
func (e *Engine) retry(c *entry, r *record) {
	if c.latest.Load().retried() {
		return
	}
	next, err := e.change(c, func(r *record) { r.State = container.StateRestarting; r.Restarts++ })
	if err != nil {
		e.o.Log.Error("store a restart", "container", r.ID, "error", err)
		return
	}
	c.backoff = e.o.Defaults.Restarts.after(c.backoff)
	e.restartLater(c, next)
}

// cancelRestart takes back a restart that is due; under the lock.
func (c *entry) cancelRestart() {
	if c.restart != nil {
		c.restart.Stop()
		c.restart = nil
	}
	c.backoff, c.short = 0, 0
}

// awaitEnd waits until a run is over and stored. It is called without the lock.
func (e *records) awaitEnd(ctx context.Context, over <-chan struct{}) error {
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errors.New("hezid is stopping: the container ends without it")
	}
}
