package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/engine/proc"
)

const (
	defaultStopTimeout = 10 * time.Second
	killWait           = 10 * time.Second // for a process to go after SIGKILL
)

func notRunning(r *record) error {
	return errdefs.ErrConflict.WithMessage("container " + r.ID + " is not running")
}

// hasEnded says whether the keeper refused a request since the container that ran a
// moment ago has ended: it may have forgotten it already.
func hasEnded(err error) bool { return errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) }

// stopSignal is what asks a container to end.
func (r *record) stopSignal(asked string) (syscall.Signal, error) {
	if asked == "" {
		asked = r.Config.StopSignal
	}
	if asked == "" {
		return unix.SIGTERM, nil
	}
	return parseSignal(asked)
}

func parseSignal(s string) (syscall.Signal, error) {
	sig, err := signal.ParseSignal(s)
	if err != nil {
		return 0, errdefs.ErrInvalidArgument.WithMessage("Invalid signal: " + s + ": write a name such as SIGTERM, or a number")
	}
	if !signal.ValidSignalForPlatform(sig) {
		return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the linux daemon does not support signal %d", sig))
	}
	return sig, nil
}

// signalName is a name of the kernel's, or one such as SIGRTMIN+3.
func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	const first = 34 // of those that programs may use, glibc's and musl's
	return fmt.Sprintf("SIGRTMIN+%d", sig-first)
}

func (r *record) stopTimeout(asked *int) time.Duration {
	if asked == nil {
		asked = r.Config.StopTimeout
	}
	switch {
	case asked == nil:
		return defaultStopTimeout
	case *asked < 0:
		return -1
	}
	return time.Duration(*asked) * time.Second
}

// Stop asks a container to end, and kills it after the time-out. One that
// does not run is a NotModified error, which the API answers with 304.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	sig, err := r.stopSignal(o.Signal)
	if err != nil {
		unlock()
		return err
	}
	if r.State == container.StateRestarting {
		defer unlock()
		return e.cancelled(c)
	}
	if !r.running() {
		unlock()
		return errdefs.ErrNotModified.WithMessage("container " + r.ID + " is not running")
	}
	patience := r.stopTimeout(o.Timeout)
	r, err = e.change(c, func(r *record) {
		r.Stopped, r.Stopping = true, &stopping{Signal: sig}
		if patience >= 0 {
			r.Stopping.Until = time.Now().Add(patience)
		}
	})
	over := c.over
	unlock()
	if err != nil {
		return err
	}
	// A client that goes away leaves a stop that goes on.
	if err := e.end(context.WithoutCancel(ctx), r, sig, patience, over); err != nil {
		return err
	}
	e.publish(r, events.ActionStop)
	return nil
}

// stopping is a stop under way: the next hezid goes on with it.
type stopping struct {
	Signal syscall.Signal
	Until  time.Time // then it is killed; zero: never
}

// stopOn goes on with a stop that the end of the hezid before cut off. The signal
// is not sent again: to some programs a second one means something else.
func stopOn(e *Engine, r *record, over <-chan struct{}) {
	patience := time.Duration(-1)
	if until := r.Stopping.Until; !until.IsZero() {
		patience = max(0, time.Until(until))
	}
	if err := outlast(e.ctx, e, r, r.Stopping.Signal, patience, over, false); err != nil {
		if e.ctx.Err() == nil {
			e.o.Log.Error("go on with a stop", "container", r.ID, "error", err)
		}
		return
	}
	e.publish(r, events.ActionStop)
}

// cancelled ends a container whose restart is due.
func (e *Engine) cancelled(c *entry) error {
	c.cancelRestart()
	r, err := e.change(c, func(r *record) { r.State = container.StateExited; r.Stopped = true })
	if err == nil {
		e.publish(r, events.ActionStop)
	}
	return err
}

// end sends the stop signal, waits, kills, and returns when the exit is stored.
func (e *Engine) end(ctx context.Context, r *record, sig syscall.Signal, patience time.Duration, over <-chan struct{}) error {
	lost := e.undeliverable(r, sig)
	if err := e.send(ctx, r, sig); err != nil {
		if !hasEnded(err) {
			return err
		}
		if errdefs.IsNotFound(err) { // stored by now, or lost
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, killWait)
			defer cancel()
		}
		if late := e.awaitEnd(ctx, over); !errors.Is(late, context.DeadlineExceeded) {
			return late
		}
		return err
	}
	return outlast(ctx, e, r, sig, patience, over, lost)
}

// outlast waits for the end after the stop signal, and kills. lost says that the
// kernel dropped the signal.
func outlast(ctx context.Context, e *Engine, r *record, sig syscall.Signal, patience time.Duration, over <-chan struct{}, lost bool) error {
	var timeout <-chan time.Time
	if patience >= 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		timeout = t.C
	}
	deaf := time.NewTimer(0)
	defer deaf.Stop()
	reads := 0
	var why []string
	for waiting := true; waiting; {
		select {
		case <-over:
			return nil
		case <-timeout:
			waiting = false
		case <-deaf.C:
			// A first process gets no signal that it does not handle: two reads say so, and
			// only of a program that had the time to install its handlers.
			switch hears := !e.undeliverable(r, sig); {
			case hears:
				if lost { // it has its handler now, and never got the signal
					lost = false
					if err := e.send(ctx, r, sig); err != nil && !hasEnded(err) {
						return err
					}
				}
				reads = 0
				deaf.Reset(500 * time.Millisecond)
			case time.Since(r.Started) < time.Second:
				deaf.Reset(50 * time.Millisecond)
			case reads == 0:
				reads++
				deaf.Reset(20 * time.Millisecond)
			default:
				why = []string{"reason", "the program has no handler for " + signalName(sig) + ", which the kernel therefore does not deliver to it"}
				e.o.Log.Info("a container is killed without waiting", "container", r.ID, "reason", why[1])
				waiting = false
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-e.ctx.Done():
			return e.awaitEnd(ctx, over)
		}
	}
	return e.kill(ctx, r, over, why...)
}

// undeliverable says whether the kernel drops the signal. The process may be a
// machine that hands it on to the program in it, of which nothing is known.
func (e *records) undeliverable(r *record, sig syscall.Signal) bool {
	if !proc.Undeliverable(r.PID, sig) {
		return false
	}
	run, err := e.o.Runtimes.Find(r.HostConfig.Runtime)
	return err == nil && run == nil || box.RootedIn(r.PID, e.o.Layers.Place(r.ID, r.Chain))
}

// kill ends the container for good, and says why when it does not go. pairs are
// told with the signal.
func (e *Engine) kill(ctx context.Context, r *record, over <-chan struct{}, pairs ...string) error {
	if err := e.send(ctx, r, unix.SIGKILL, pairs...); err != nil && !hasEnded(err) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	var err error
	for {
		short, cancel := context.WithTimeout(wait, 200*time.Millisecond)
		err = e.awaitEnd(short, over)
		cancel()
		if err == nil || wait.Err() != nil || e.ctx.Err() != nil {
			break
		}
		if c, cerr := e.entry(r.ID); cerr == nil {
			if why := c.unstored.Load(); why != nil {
				return fmt.Errorf("container %s has ended, but that cannot be stored, which is tried on: %w", r.Name, *why)
			}
		}
		// Somebody may have paused it meanwhile: a frozen process does not die.
		if err := thaw(wait, e, r, false); err != nil && wait.Err() == nil {
			e.o.Log.Warn("thaw a container that is to end", "container", r.ID, "error", err)
		}
	}
	if err != nil && ctx.Err() == nil && e.ctx.Err() == nil {
		return errdefs.ErrInternal.WithMessage(fmt.Sprintf("tried to kill container %s, but did not receive an exit event in %s: process %d is %s",
			r.ID, killWait, r.PID, proc.WhyStuck(r.PID)))
	}
	return err
}

// send sends a signal and says so; a paused container is thawed to receive it.
func (e *Engine) send(ctx context.Context, r *record, sig syscall.Signal, pairs ...string) error {
	if err := e.o.Keeper.Signal(ctx, r.ID, "", int(sig)); err != nil {
		return err
	}
	e.publish(r, events.ActionKill, append(pairs, "signal", strconv.Itoa(int(sig)))...)
	return thaw(ctx, e, r, false)
}

// thaw lets a run go on that is paused by now; passing: only if it is for a
// moment, and with an event: a user's own pause stays.
func thaw(ctx context.Context, e *Engine, r *record, passing bool) error {
	c, err := e.entry(r.ID)
	if err != nil {
		return nil // removed
	}
	if now := c.latest.Load(); now.State != container.StatePaused || now.PID != r.PID || passing && !now.Thaw {
		return nil
	}
	err = e.unpause(ctx, r.ID, passing)
	if errdefs.IsConflict(err) || hasEnded(err) { // somebody else did, or it has ended
		return nil
	}
	return err
}

// Kill sends a signal; "" is SIGKILL, after which it waits for the end.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	sig := unix.SIGKILL
	var err error
	if name != "" {
		if sig, err = parseSignal(name); err != nil {
			return err
		}
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	if r.State == container.StateRestarting && sig == unix.SIGKILL {
		defer unlock()
		return e.cancelled(c)
	}
	if !r.running() {
		unlock()
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot kill container: %s: container %s is not running", ref, r.ID))
	}
	stop, stopErr := r.stopSignal("")
	if sig == unix.SIGKILL || stopErr == nil && sig == stop {
		r, err = e.change(c, func(r *record) { r.Stopped = true })
	}
	over := c.over
	unlock()
	if err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		return e.kill(ctx, r, over)
	}
	if err = e.send(ctx, r, sig); hasEnded(err) {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot kill container: %s: container %s is not running", ref, r.ID))
	}
	return err
}

// Restart stops a container that runs and starts it. A container of --rm
// stays in between.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	id := c.latest.Load().ID
	c.again++
	unlock()
	err = e.Stop(ctx, id, o)
	if err == nil || errdefs.IsNotModified(err) {
		err = e.Start(ctx, id)
	}
	if errdefs.IsNotModified(err) {
		err = nil
	}
	if err := errors.Join(err, e.restarted(c, id)); err != nil {
		return err
	}
	e.publish(c.latest.Load(), events.ActionRestart)
	return nil
}

// restarted ends what Restart began: a container of --rm that it stopped and
// could not start again goes.
func (e *Engine) restarted(c *entry, id string) error {
	_, unlock, err := e.lockEntry(e.ctx, c, id)
	if errdefs.IsNotFound(err) {
		return nil // the start that failed removed it, or somebody else
	}
	if err != nil {
		return err
	}
	defer unlock()
	c.again--
	if r := c.latest.Load(); c.again == 0 && r.HostConfig.AutoRemove && r.State == container.StateExited {
		return e.remove(c, RemoveOptions{Volumes: true})
	}
	return nil
}

// Pause freezes a container.
func (e *Engine) Pause(ctx context.Context, ref string) error { return e.pause(ctx, ref, false) }

// pause freezes a container; passing: only for as long as this engine works on
// its files, so that the next engine lets it go on.
func (e *Engine) pause(ctx context.Context, ref string, passing bool) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	r := c.latest.Load()
	switch r.State {
	case container.StateRunning:
	case container.StatePaused:
		return errdefs.ErrConflict.WithMessage("container " + ref + " is already paused")
	default:
		return notRunning(r)
	}
	if passing != r.Thaw {
		if _, err := e.change(c, func(r *record) { r.Thaw = passing }); err != nil {
			return err
		}
	}
	ctx = context.WithoutCancel(ctx) // a client that goes away must not leave it frozen and said to run
	if err := e.o.Keeper.Pause(ctx, r.ID); hasEnded(err) {
		return notRunning(r)
	} else if err != nil {
		return err
	}
	if _, err = e.change(c, func(r *record) { r.State = container.StatePaused }); err != nil {
		if back := e.o.Keeper.Resume(ctx, r.ID); back != nil {
			e.o.Log.Error("thaw a container whose pause could not be stored", "error", back)
		}
		return err
	}
	e.checks.pause(c)
	e.publish(r, events.ActionPause)
	return nil
}

// Unpause lets a paused container go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error { return e.unpause(ctx, ref, true) }

func (e *Engine) unpause(ctx context.Context, ref string, tell bool) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	r := c.latest.Load()
	if r.State != container.StatePaused {
		return errdefs.ErrConflict.WithMessage("Container " + r.ID + " is not paused")
	}
	if err := e.o.Keeper.Resume(ctx, r.ID); err != nil {
		return err
	}
	if r, err = e.change(c, func(r *record) { r.State, r.Thaw = container.StateRunning, false }); err != nil {
		return err
	}
	e.checks.unpause(c)
	if tell {
		e.publish(r, events.ActionUnPause)
	}
	return nil
}

// Resize sets the size of a container's terminal, in characters.
func (e *Streams) Resize(ctx context.Context, ref string, height, width uint16) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	if !r.running() {
		return notRunning(r)
	}
	if err := e.o.Keeper.Resize(ctx, r.ID, "", height, width); errdefs.IsNotFound(err) {
		return notRunning(r)
	} else if err != nil {
		return err
	}
	e.publish(r, events.ActionResize, "height", strconv.Itoa(int(height)), "width", strconv.Itoa(int(width)))
	return nil
}
