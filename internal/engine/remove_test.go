package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/engine/execs"
	"hezi/internal/engine/health"
	"hezi/internal/keeper"
	"hezi/internal/store"
)

// kept is viewed with a store and a keeper that says yes.
func kept(t *testing.T, records ...*record) *Engine {
	t.Helper()
	e := viewed(t, records...)
	e.o.DataRoot, e.o.ExecRoot = t.TempDir(), t.TempDir()
	e.index = execs.New(filepath.Join(e.o.ExecRoot, "execs"))
	db, err := store.Open(filepath.Join(e.o.DataRoot, "hezi.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	e.o.Store, e.o.Keeper = db, keeper.NewClient(e.o.ExecRoot)
	agreeable(t, e.o.ExecRoot)
	for _, dir := range []string{filepath.Join(e.o.ExecRoot, "containers"), filepath.Join(e.o.ExecRoot, "execs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// TestStartWhileRemoved: a start that gets its turn between the kill and the
// removal is refused, and what runs is never removed: the record is all that
// knows of its processes.
func TestStartWhileRemoved(t *testing.T) {
	e := kept(t, &record{Name: "going", State: container.StateExited}, &record{Name: "runs", State: container.StateRunning})
	c, err := e.entry("going")
	if err != nil {
		t.Fatal(err)
	}
	c.removing = true
	if err := e.Start(t.Context(), "going"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "marked for removal") {
		t.Errorf("start: %v", err)
	}
	if r := c.latest.Load(); r.State != container.StateExited || r.Error != "" {
		t.Errorf("after the start: %s %q", r.State, r.Error)
	}

	c, err = e.entry("runs")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.remove(c, RemoveOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("remove: %v", err)
	}
	if _, err := e.entry("runs"); err != nil || c.gone {
		t.Errorf("a container that runs was removed: %v", err)
	}
}

// TestPauseWhileKilled: a container that somebody pauses just after it was sent
// SIGKILL is thawed, or it would never end.
func TestPauseWhileKilled(t *testing.T) {
	e := kept(t, &record{Name: "web", State: container.StateRunning, PID: os.Getpid()})
	c, err := e.entry("web")
	if err != nil {
		t.Fatal(err)
	}
	r, over, killed := c.latest.Load(), make(chan struct{}), make(chan error, 1)
	go func() { killed <- e.kill(context.Background(), r, over) }()
	time.Sleep(50 * time.Millisecond) // its signal is sent
	if err := e.Pause(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); c.latest.Load().State == container.StatePaused; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is still paused after 5 s")
		}
	}
	close(over)
	if err := <-killed; err != nil {
		t.Error(err)
	}
	other := *r
	other.PID++
	if err := e.Pause(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := thaw(t.Context(), e, &other, false); err != nil || c.latest.Load().State != container.StatePaused {
		t.Errorf("who kills an earlier run thaws a later one: %s %v", c.latest.Load().State, err)
	}
}

type told chan events.Message

func (t told) Publish(m events.Message) { t <- m }

// TestActionAfterPause: what is to be done about an unhealthy container that
// somebody had just paused is done when it goes on.
func TestActionAfterPause(t *testing.T) {
	e := kept(t, &record{Name: "web", State: container.StateRunning, PID: os.Getpid(),
		Config: &container.Config{Healthcheck: &container.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Hour}}})
	said := make(told, 100)
	e.o.Events = said
	e.checks = newChecks(e)
	if err := os.MkdirAll(e.checks.folder(), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := e.entry("web")
	if err != nil {
		t.Fatal(err)
	}
	r := c.latest.Load()
	c.over = make(chan struct{})
	c.vital.Store(&vital{Started: r.Started, Health: &container.Health{Status: container.Unhealthy}, Action: health.ActKill})
	if err := e.Pause(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	e.checks.act(c, r, health.ActKill) // nothing yet
	if err := e.Unpause(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	for late := time.After(20 * time.Second); ; {
		select {
		case m := <-said:
			if m.Action == events.ActionKill {
				close(c.over)
				e.work.Wait()
				return
			}
		case <-late:
			t.Fatal("it is not killed")
		}
	}
}

// TestExecStartsOnce: of many who start one exec, one does.
func TestExecStartsOnce(t *testing.T) {
	e := kept(t, &record{Name: "web", State: container.StateRunning, HostConfig: &container.HostConfig{Privileged: true}})
	for range 20 {
		startOnce(t, e)
	}
}

func startOnce(t *testing.T, e *Engine) {
	t.Helper()
	id, err := e.ExecCreate(t.Context(), "web", ExecConfig{Cmd: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	const starters = 16
	var all sync.WaitGroup
	answers, begin := make(chan error, starters), make(chan struct{})
	for range starters {
		all.Go(func() { <-begin; answers <- e.ExecStart(t.Context(), id, ExecStartOptions{}, nil) })
	}
	close(begin)
	all.Wait()
	close(answers)
	began := 0
	for err := range answers {
		switch {
		case err == nil:
			began++
		case !errdefs.IsConflict(err):
			t.Error(err)
		}
	}
	if began != 1 {
		t.Errorf("%d starts of one exec", began)
	}
}
