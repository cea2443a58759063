package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/engine/health"
	"hezi/internal/engine/proc"
)

// prober is what the engine needs to ask a container by its network. probe.Prober has it.
type prober interface {
	OpenNamespace(pid int, containerID string) (*os.File, error)
	HTTP(ctx context.Context, ns *os.File, url string) (ok bool, text string)
	TCP(ctx context.Context, ns *os.File, addr string) (ok bool, text string)
}

const (
	probeStart = 30 * time.Second // for the start of a check's program, which counts not as its time
	probeEnd   = 10 * time.Second // for its end after SIGKILL
	probeRetry = time.Second      // after a check that was cut off, by a keeper that was replaced
)

// checks makes the health checks of all containers. What is known of a
// container's health is in its entry (vital), and in a file on the exec root, so
// that the next hezid goes on with it.
type checks struct {
	e        *Engine
	schedule *health.Schedule
}

// vital is a container's health while it runs. Its changes are held together by
// the entry's healing lock.
type vital struct {
	Started time.Time // of the run that it is about
	Health  *container.Health
	Action  string `json:",omitempty"` // what is being done about it, since it became unhealthy
	// Backoff is before the next restart by the action, nanoseconds.
	Backoff time.Duration
}

func newChecks(e *Engine) *checks {
	k := &checks{e: e}
	k.schedule = health.NewSchedule(e.ctx, 8*runtime.NumCPU(), k.run)
	return k
}

func (k *checks) folder() string { return filepath.Join(k.e.o.ExecRoot, "health") }

func (k *checks) file(id string) string { return filepath.Join(k.folder(), id+".json") }

// begin starts the checks of a run; under the container's lock.
func (k *checks) begin(c *entry) {
	r := c.latest.Load()
	check := health.Of(r.Config)
	if check == nil {
		return
	}
	v := &vital{Started: r.Started, Health: health.Begin(r.Health)}
	if old := c.vital.Load(); old != nil {
		v.Backoff = old.Backoff
	}
	c.healing.Lock()
	k.set(c, v)
	c.healing.Unlock()
	k.schedule.Add(r.ID, check.Wait(v.Health.Status, time.Since(r.Started)))
}

// resumeAll goes on with the checks of all runs that the hezid before had begun.
func (k *checks) resumeAll() {
	for _, c := range k.e.entries() {
		k.resume(c)
	}
	files, err := filepath.Glob(k.file("*"))
	if err != nil {
		k.e.o.Log.Warn("find what is known of containers' health", "error", err)
	}
	for _, f := range files {
		id := strings.TrimSuffix(filepath.Base(f), ".json")
		if c, err := k.e.entry(id); err == nil && c.latest.Load().running() {
			continue
		}
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.e.o.Log.Warn("forget the health of a container that has ended", "file", f, "error", err)
		}
	}
}

// resume goes on with the checks of a run that the hezid before had begun.
func (k *checks) resume(c *entry) {
	r := c.latest.Load()
	check := health.Of(r.Config)
	if check == nil || !r.running() {
		return
	}
	v := new(vital)
	b, err := os.ReadFile(k.file(r.ID))
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil || v.Health == nil || !v.Started.Equal(r.Started) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.e.o.Log.Warn("the health of a container is not known any more: its checks begin anew", "container", r.ID, "error", err)
		}
		v = &vital{Started: r.Started, Health: health.Begin(r.Health)}
	}
	c.healing.Lock()
	k.set(c, v)
	c.healing.Unlock()
	if r.State != container.StateRunning || proc.Exited(r.PID) {
		return
	}
	k.schedule.Add(r.ID, k.next(check, v))
	if v.Action != "" { // the end of the hezid before cut it off
		k.e.work.Go(func() { k.act(c, r, v.Action) })
	}
}

// next is how long to wait now, since the last check.
func (k *checks) next(check *health.Check, v *vital) time.Duration {
	wait := check.Wait(v.Health.Status, time.Since(v.Started))
	if n := len(v.Health.Log); n > 0 && v.Health.Log[n-1].End.After(v.Started) {
		wait -= time.Since(v.Health.Log[n-1].End)
	}
	return max(0, wait)
}

// pause stops the checks, and shows that it has; under the container's lock.
func (k *checks) pause(c *entry) {
	k.schedule.Drop(c.latest.Load().ID)
	c.healing.Lock()
	defer c.healing.Unlock()
	if v := c.vital.Load(); v != nil {
		next := *v
		next.Health = health.Idle(v.Health)
		k.set(c, &next)
	}
}

// unpause goes on with them; under the container's lock.
func (k *checks) unpause(c *entry) {
	r := c.latest.Load()
	check, v := health.Of(r.Config), c.vital.Load()
	if check == nil || v == nil {
		return
	}
	k.schedule.Add(r.ID, check.Wait(v.Health.Status, time.Since(v.Started)))
	if v.Action != "" { // it was due while the container was paused
		k.e.work.Go(func() { k.act(c, r, v.Action) })
	}
}

// end stops the checks of a run that is over and gives its last health, which
// the record keeps; nil without checks. Under the container's lock.
func (k *checks) end(c *entry) *container.Health {
	id := c.latest.Load().ID
	v := c.vital.Load()
	if v == nil {
		return nil
	}
	k.pause(c)
	if err := os.Remove(k.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.e.o.Log.Warn("forget a container's health", "container", id, "error", err)
	}
	return c.vital.Load().Health
}

// set stores and shows; a file that cannot be written costs the next hezid what
// it would have known, and nothing else.
func (k *checks) set(c *entry, v *vital) {
	id := c.latest.Load().ID
	b, err := json.Marshal(v)
	if err == nil {
		path := k.file(id)
		if err = os.WriteFile(path+".new", b, 0o600); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		k.e.o.Log.Warn("store a container's health", "container", id, "error", err)
	}
	c.vital.Store(v)
}

// run makes one check; it is the schedule's.
func (k *checks) run(ctx context.Context, id string) (wait time.Duration, again bool) {
	c, err := k.e.entry(id)
	if err != nil {
		return 0, false
	}
	r := c.latest.Load()
	check := health.Of(r.Config)
	if check == nil || r.State != container.StateRunning {
		return 0, false
	}
	result, err := k.probe(ctx, r, check)
	if ctx.Err() != nil {
		return 0, false
	}
	if errors.Is(err, health.ErrCutOff) {
		return probeRetry, true
	}
	if err != nil {
		k.e.o.Log.Warn("a health check failed", "container", id, "error", err)
		result.ExitCode, result.Output = -1, err.Error()
	}
	result.End = time.Now()
	v, ok := k.take(ctx, c, check, r, result)
	if !ok {
		return 0, false
	}
	return check.Wait(v.Health.Status, time.Since(v.Started)), true
}

// take stores a result, tells of a change and acts upon it. It is not ok when the
// run is another by now, or the checks were dropped.
func (k *checks) take(ctx context.Context, c *entry, check *health.Check, r *record, result *container.HealthcheckResult) (*vital, bool) {
	c.healing.Lock()
	defer c.healing.Unlock()
	before := c.vital.Load()
	if ctx.Err() != nil || before == nil || !before.Started.Equal(r.Started) {
		return nil, false
	}
	v := &vital{Started: before.Started, Health: check.After(before.Health, before.Started, result), Backoff: before.Backoff, Action: before.Action}
	now := v.Health.Status
	changed := now != before.Health.Status
	switch {
	case now == container.Healthy:
		v.Backoff, v.Action = 0, ""
	case changed && now == container.Unhealthy && check.Action != health.ActNone:
		v.Action = check.Action
	}
	k.set(c, v)
	if changed {
		r = c.latest.Load() // of its name now
		k.e.publish(r, events.ActionHealthStatus+": "+events.Action(now))
		if now == container.Unhealthy && v.Action != "" {
			k.e.publish(r, actionHealth, "action", v.Action)
			k.e.work.Go(func() { k.act(c, r, v.Action) })
		}
	}
	return v, true
}

// actionHealth is an event of Hezi's own: what is done about an unhealthy container.
const actionHealth events.Action = "health_action"

// act does what the container's label asks for when it is unhealthy.
func (k *checks) act(c *entry, r *record, action string) {
	var err error
	switch action {
	case health.ActStop:
		err = k.e.Stop(k.e.ctx, r.ID, StopOptions{})
	case health.ActKill: // an end like any other: the restart policy goes on
		err = k.finish(c, r, false)
	case health.ActRestart:
		err = k.finish(c, r, true)
	}
	if err != nil && k.e.ctx.Err() == nil {
		k.e.o.Log.Error("act upon an unhealthy container", "container", r.ID, "action", action, "error", err)
	}
}

// finish ends the run that r is of: gently by its own stop signal and time-out.
func (k *checks) finish(c *entry, r *record, gently bool) error {
	_, unlock, err := k.e.lockEntry(k.e.ctx, c, r.ID)
	if err != nil {
		return nil // removed meanwhile, or the engine ends
	}
	now, over := c.latest.Load(), c.over
	due := now.State == container.StateRunning && now.Started.Equal(r.Started) && !now.Stopped && !c.removing
	unlock()
	if !due {
		return nil
	}
	if !gently {
		return k.e.kill(k.e.ctx, now, over)
	}
	sig, err := now.stopSignal("")
	if err != nil {
		return err
	}
	return k.e.end(k.e.ctx, now, sig, now.stopTimeout(nil), over)
}

// heals says whether the run that ends is started again by the action, after its
// back-off, whatever the restart policy says.
func (k *checks) heals(c *entry, r *record) bool {
	v := c.vital.Load()
	return v != nil && v.Started.Equal(r.Started) && v.Action == health.ActRestart
}

// healed is the back-off before the restart of a container that was unhealthy:
// doubled until it has been healthy. Under the container's lock.
func (k *checks) healed(c *entry) time.Duration {
	c.healing.Lock()
	defer c.healing.Unlock()
	v := c.vital.Load()
	if v == nil {
		return k.e.o.Defaults.Restarts.first()
	}
	next := *v
	next.Backoff = k.e.o.Defaults.Restarts.after(v.Backoff)
	c.vital.Store(&next)
	return next.Backoff
}

// probe makes a check. The result has its start, and its end is the caller's.
func (k *checks) probe(ctx context.Context, r *record, check *health.Check) (*container.HealthcheckResult, error) {
	result := &container.HealthcheckResult{Start: time.Now()}
	if check.Kind == health.Program || check.Kind == health.Shell {
		code, text, err := k.command(ctx, r, check)
		result.ExitCode, result.Output = code, text
		return result, err
	}
	ns, err := k.e.o.Prober.OpenNamespace(r.PID, r.ID)
	if err != nil {
		return result, err
	}
	defer ns.Close()
	short, cancel := context.WithTimeout(ctx, check.Timeout)
	defer cancel()
	ask := k.e.o.Prober.TCP
	if check.Kind == health.HTTP {
		ask = k.e.o.Prober.HTTP
	}
	ok, text := ask(short, ns, check.Target)
	var out health.Output
	switch {
	case short.Err() != nil:
		fmt.Fprintf(&out, "Health check exceeded timeout (%v): %s", check.Timeout, text)
		result.ExitCode = -1
	case !ok:
		result.ExitCode = 1
		fallthrough
	default:
		_, _ = out.Write([]byte(text)) // in memory
	}
	result.Output = out.String()
	return result, nil
}

// command runs the check's program in the container. One that takes too long is
// killed, with all that it started.
func (k *checks) command(ctx context.Context, r *record, check *health.Check) (code int, text string, err error) {
	ours, theirs, err := health.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer ours.Close() // its processes end with their client
	id, err := k.e.ExecCreate(ctx, r.ID, ExecConfig{Cmd: check.Command, User: r.Config.User, WorkingDir: r.Config.WorkingDir,
		Stdout: true, Stderr: true, KillOnDisconnect: true, AtOnce: true, Check: true})
	if err != nil {
		theirs.Close()
		return 0, "", err
	}
	starting, cancel := context.WithTimeout(ctx, probeStart)
	defer cancel()
	taken := false
	err = k.e.ExecStart(starting, id, ExecStartOptions{ExitFrame: true}, func() (net.Conn, []byte, error) { taken = true; return theirs, nil, nil })
	if !taken {
		theirs.Close()
	}
	if err != nil {
		if starting.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("timed out starting health check for container %s", r.ID)
		}
		k.e.index.Forget(id)
		return 0, "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = ours.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var out health.Output
	if err := ours.SetReadDeadline(time.Now().Add(check.Timeout)); err != nil {
		return 0, "", err
	}
	code, err = health.Read(bufio.NewReader(ours), &out)
	if ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return code, out.String(), err
	}
	said := out.String()
	if err := k.killCheck(id, ours); err != nil {
		k.e.o.Log.Warn("end a health check that takes too long", "container", r.ID, "error", err)
	}
	text = fmt.Sprintf("Health check exceeded timeout (%v)", check.Timeout)
	if said != "" {
		text += ": " + said
	}
	return -1, text, nil
}

// killCheck ends a check's processes and waits for that.
func (k *checks) killCheck(id string, conn net.Conn) error {
	ctx, cancel := context.WithTimeout(k.e.ctx, probeEnd)
	defer cancel()
	if err := k.e.ExecKill(ctx, id, ""); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(probeEnd)); err != nil {
		return err
	}
	_, err := health.Read(bufio.NewReader(conn), io.Discard)
	if errors.Is(err, health.ErrCutOff) { // in the middle of a frame
		return nil
	}
	return err
}

// health is what is known of the container's health; nil without checks.
func (r *record) health() *container.Health {
	if r.vital != nil && r.running() {
		if v := r.vital.Load(); v != nil {
			return v.Health
		}
	}
	return r.Health
}

// healthStatus is that in one word.
func (r *record) healthStatus() container.HealthStatus {
	if h := r.health(); h != nil {
		return h.Status
	}
	return container.NoHealthcheck
}
