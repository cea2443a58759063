package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hezi/internal/engine/spec"
	"hezi/internal/image"
	"hezi/internal/keeper"
	"hezi/internal/network"
)

// lostExit is the exit code of a container whose end nobody saw.
const lostExit = 255

// Restore brings the records and what the keeper has together. Containers that
// run go on untouched. Begin must follow, after the network has swept.
func (e *Engine) Restore(ctx context.Context) error {
	e.o.Keeper.OnLost(lost{e}.regainNow)
	list, err := e.o.Keeper.List(ctx)
	if err != nil {
		return fmt.Errorf("ask the keeper what runs: %w", err)
	}
	known := map[string]keeper.Status{}
	for _, s := range list {
		known[s.ID] = s
	}
	for _, c := range e.entries() {
		r := c.latest.Load()
		s, ok := known[r.ID]
		delete(known, s.ID)
		if !ok && r.running() {
			if err := e.o.Keeper.Adopt(ctx, e.adoption(r)); err == nil {
				s, ok = keeper.Status{ID: r.ID, PID: r.PID, StartedAt: r.Started, Paused: r.State == container.StatePaused}, true
			} else if !errdefs.IsNotFound(err) {
				e.o.Log.Error("a running container could not be taken up again: it is ended", "container", r.ID, "error", err)
			}
		}
		if err := e.restore(ctx, c, s, ok); err != nil {
			return fmt.Errorf("restore container %s: %w", c.latest.Load().ID, err)
		}
		output{e.records}.shipLog(c.latest.Load())
	}
	e.o.Volumes.Settle()
	for id := range known {
		e.work.Go(func() { e.endStranger(id) })
	}
	lost{e}.sweepProcesses(ctx)
	scoping{e.records}.restore(ctx)
	if err := e.loadExecs(list); err != nil {
		return err
	}
	return e.sweep()
}

func (e *Engine) restore(ctx context.Context, c *entry, s keeper.Status, alive bool) error {
	r := c.latest.Load()
	if err := e.o.Images.Pin(ctx, r.image(), r.ID); errdefs.IsNotFound(err) {
		e.o.Log.Error("a container's image is gone: it cannot be started again", "container", r.ID, "image", r.Config.Image)
	} else if err != nil {
		return err
	}
	for _, p := range r.mountedImages() {
		img := &image.Image{ID: p.Image.ID, Manifest: p.Image.Manifest, Layers: p.Image.Layers}
		if err := e.o.Images.Pin(ctx, img, imageHold(r, p)); errdefs.IsNotFound(err) {
			e.o.Log.Error("an image that a container mounts is gone: it cannot be started again", "container", r.ID, "image", p.Source)
		} else if err != nil {
			return err
		}
	}
	if err := (roots{e.records}).here(r); err != nil {
		e.o.Log.Warn("a container cannot be started with this storage driver", "container", r.ID, "name", r.Name, "error", err)
	} else if lost, err := e.o.Layers.Restore(r.ID, r.Chain); err != nil {
		e.o.Log.Error("a container's writable layer cannot be used: the container cannot be started", "container", r.ID, "error", err)
	} else if lost {
		if err := e.limitLayer(r); err != nil {
			e.o.Log.Error("the disk space of a container is not limited any more", "container", r.ID, "error", err)
		}
		e.o.Log.Warn("a container's writable layer was lost, as in a power cut just after the container was made: it is empty now", "container", r.ID)
	}
	if !alive {
		roots{e.records}.release(r)
		return e.restoreEnded(c)
	}
	c.over = make(chan struct{})
	e.o.Volumes.Hold(r.ID, r.volumes())
	missed := s.Exit == nil && missedOOM(e.records, r)
	state := container.StateRunning
	if s.Paused && s.Exit == nil {
		state = container.StatePaused
	}
	r, err := e.change(c, func(r *record) {
		if s.PID != 0 {
			r.PID = s.PID
		}
		if r.State == container.StateExited || r.State == container.StateCreated || r.State == container.StateRestarting {
			r.Started = s.StartedAt
			r.State = container.StateRunning
		}
		r.OOM = r.OOM || missed
	})
	if err == nil && missed {
		e.publish(r, events.ActionOOM)
	}
	if err == nil && r.State != state {
		r, err = e.change(c, func(r *record) { r.State = state })
	}
	if err == nil && s.Exit == nil && r.Stopping != nil {
		over := c.over
		e.work.Go(func() { stopOn(e, r, over) })
	}
	if err == nil && r.Thaw && r.State == container.StatePaused { // for the engine before, which has ended
		e.work.Go(func() {
			if err := thaw(e.ctx, e, r, true); err != nil {
				e.o.Log.Error("a container stays paused that was paused for a moment: hezi unpause lets it go on", "container", r.ID, "error", err)
			}
		})
	}
	if err == nil && s.Exit == nil {
		if err := (Mounts{e}).takeBack(ctx, c); err != nil {
			e.o.Log.Error("a change of a container's mounts that was under way could not be taken back: a restart of the container does", "container", r.ID, "error", err)
		}
	}
	if err != nil || r.Net == nil || s.Exit != nil {
		return err // the keeper tells the exit again
	}
	place := r.place()
	if place.PortSockets, err = e.o.Keeper.PortSockets(ctx, r.ID); err != nil {
		e.o.Log.Warn("the sockets of a container's published ports were not kept", "container", r.ID, "error", err)
	}
	if place.Resolving, err = resolving(&e.o.Defaults, r); err != nil {
		e.o.Log.Error("a container's names may be looked for in the wrong way", "container", r.ID, "error", err)
	}
	if r.Net.Asks {
		if place.NameSockets, err = e.o.Keeper.NameSockets(ctx, r.ID); err != nil {
			e.o.Log.Warn("the sockets by which a container asks for names were not kept: what it asked meanwhile is lost", "container", r.ID, "error", err)
		}
	}
	box, err := e.o.Networks.Adopt(ctx, place, r.Net)
	if err != nil {
		e.o.Log.Error("a running container's network could not be taken back: its published ports may not answer; restart it", "container", r.ID, "error", err)
	} else if r.Net.Asks && len(place.NameSockets) == 0 {
		keepNames(ctx, &e.o, r.ID)
	}
	if err != nil || maps.EqualFunc(box.Ports, r.Net.Ports, slices.Equal) {
		return nil
	}
	now := *r.Net // the rules of a family of addresses went, or came back
	now.Ports, now.Unpublished = box.Ports, box.Unpublished
	keepPorts(ctx, &e.o, r.ID, &network.Sandbox{Ports: box.Ports}) // it has those that stay
	_, err = e.change(c, func(r *record) { r.Net = &now })
	return err
}

// restoreEnded is for containers that the keeper does not have.
func (e *Engine) restoreEnded(c *entry) error {
	r := c.latest.Load()
	if !r.running() {
		if r.State == container.StateExited && r.HostConfig.AutoRemove {
			return e.remove(c, RemoveOptions{Volumes: true})
		}
		if hooks := r.Hooks; hooks != nil { // of a start that the engine before did not see the end of
			if _, err := e.change(c, func(r *record) { r.Hooks = nil }); err != nil {
				return err
			}
			unhook(e.records, c, hooks, func() {})
		}
		return nil
	}
	hooks := r.Hooks
	_, err := e.change(c, func(r *record) {
		r.State, r.Exit, r.PID, r.Net, r.Cgroups, r.Hooks, r.Finished = container.StateExited, lostExit, 0, nil, nil, nil, time.Now().UTC()
		r.Error = "the machine or the keeper ended while the container ran: its exit code is not known"
	})
	if err != nil {
		return err
	}
	unhook(e.records, c, hooks, func() {})
	if r.HostConfig.AutoRemove {
		return e.remove(c, RemoveOptions{Volumes: true})
	}
	return nil
}

// Begin follows the keeper's events and starts what restart policies want started.
func (e *Engine) Begin() {
	e.checks.resumeAll() // before an exit, which stores the last health
	e.work.Go(e.follow)
	for _, c := range e.entries() {
		r := c.latest.Load()
		switch {
		case r.due():
			e.work.Go(func() { e.startAgain(r) })
		case r.running() && len(r.bridgeLinks()) > 0: // of those, some may have ended meanwhile
			relinkOne(e.records, c)
		}
	}
}

// due says whether the engine's start starts the container.
func (r *record) due() bool {
	if r.State != container.StateExited || r.Started.IsZero() {
		return r.State == container.StateRestarting
	}
	p := r.HostConfig.RestartPolicy
	return p.IsAlways() || !r.Stopped && (p.IsUnlessStopped() || p.IsOnFailure() && r.Exit != 0 && !r.retried())
}

func (e *Engine) startAgain(r *record) {
	c, unlock, err := e.lockKnown(e.ctx, r.ID)
	if err != nil {
		return
	}
	defer unlock()
	if s := c.latest.Load().State; s != container.StateExited && s != container.StateRestarting {
		return
	}
	if err := e.start(e.ctx, c, true); err != nil && e.ctx.Err() == nil {
		e.o.Log.Error("the restart policy could not start a container", "container", r.ID, "error", err)
		e.retry(c, r)
	}
}

// endStranger ends a container that the data root does not know.
func (e *Engine) endStranger(id string) {
	e.o.Log.Warn("the keeper has a container that this data root does not know: it is stopped", "container", id)
	ctx, cancel := context.WithTimeout(e.ctx, defaultStopTimeout)
	defer cancel()
	err := e.o.Keeper.Signal(ctx, id, "", int(unix.SIGTERM))
	if err == nil {
		_, err = e.o.Keeper.WaitExit(ctx, id, keeper.WaitNotRunning)
	}
	if err != nil && !hasEnded(err) && e.ctx.Err() == nil {
		err = e.o.Keeper.KillAll(e.ctx, id)
		if err == nil {
			_, err = e.o.Keeper.WaitExit(e.ctx, id, keeper.WaitNotRunning)
		}
	} else {
		err = nil
	}
	if err == nil {
		err = e.o.Keeper.Forget(e.ctx, id, true)
	}
	if err != nil && e.ctx.Err() == nil {
		e.o.Log.Error("a container that nobody knows could not be stopped", "container", id, "error", err)
	}
}

// sweep removes what containers left that are not there.
func (e *Engine) sweep() error {
	known := func(id string) bool {
		e.mu.RLock()
		defer e.mu.RUnlock()
		return e.boxes[id] != nil
	}
	list, err := os.ReadDir(filepath.Join(e.o.DataRoot, "containers"))
	if err != nil {
		return fmt.Errorf("the folders of containers: %w", err)
	}
	errs := []error{e.o.Layers.Sweep(known), sweepHooks(e.records)}
	for _, c := range e.entries() { // whose removal is under way, or that a client starts, is tidied another time
		select {
		case c.work <- struct{}{}:
			if !c.gone {
				tidy(e.records, c)
			}
			<-c.work
		default:
		}
	}
	for _, d := range list {
		if !known(d.Name()) {
			errs = append(errs, os.RemoveAll(e.folder(d.Name())))
		}
	}
	return errors.Join(errs...)
}

// StopAll stops every container, each with its own signal and time-out.
func (e *Engine) StopAll(ctx context.Context) error {
	var errs []error
	results := make(chan error)
	list := e.all()
	for _, r := range list {
		go func() {
			if !r.running() && r.State != container.StateRestarting {
				results <- nil
				return
			}
			results <- e.Stop(ctx, r.ID, StopOptions{})
		}()
	}
	for range list {
		if err := <-results; err != nil && !errdefs.IsNotModified(err) && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Counts are how many containers run, are paused, and are stopped.
func (e *records) Counts() (running, paused, stopped int) {
	for _, r := range e.all() {
		switch r.State {
		case container.StateRunning, container.StateRestarting:
			running++
		case container.StatePaused:
			paused++
		default:
			stopped++
		}
	}
	return running, paused, stopped
}

// Close ends the engine's own work; containers run on.
func (e *Engine) Close() error {
	e.cancel()
	e.mu.RLock()
	for _, c := range e.boxes {
		select {
		case c.work <- struct{}{}:
			c.cancelRestart()
			<-c.work
		default: // a timer that fires sees the end
		}
	}
	e.mu.RUnlock()
	e.checks.schedule.Wait()
	e.work.Wait()
	return nil
}

// ImageUses are the images of all containers.
func (e *records) ImageUses() []image.Use {
	list := e.all()
	uses := make([]image.Use, 0, len(list))
	for _, r := range list {
		uses = append(uses, image.Use{Container: r.ID, Image: digest.Digest(r.ImageID), Name: r.Config.Image})
		for _, p := range r.mountedImages() {
			uses = append(uses, image.Use{Container: r.ID, Image: p.Image.ID, Name: p.Source})
		}
	}
	return uses
}

// ImageUsers are the ids of the containers that were made from an image or mount it.
func (e *records) ImageUsers(id string) (running, stopped []string) {
	for _, c := range e.entries() {
		if !c.latest.Load().uses(id) {
			continue
		}
		e.settle(c)
		r := c.latest.Load()
		if r.running() || r.State == container.StateRestarting {
			running = append(running, r.ID)
		} else {
			stopped = append(stopped, r.ID)
		}
	}
	return running, stopped
}

// uses says whether a container was made from an image or mounts it.
func (r *record) uses(id string) bool {
	return r.ImageID == id || slices.ContainsFunc(r.mountedImages(), func(p *spec.Point) bool { return p.Image.ID.String() == id })
}
