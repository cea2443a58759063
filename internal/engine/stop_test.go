package engine

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
	"hezi/internal/engine/execs"
	"hezi/internal/keeper"
)

// TestEndedMeanwhile: a container that ends, and that the keeper forgets, while a
// request about it is on its way was stopped, or does not run; it is not unknown.
func TestEndedMeanwhile(t *testing.T) {
	e := kept(t, &record{Name: "web", State: container.StateRunning, PID: os.Getpid()})
	e.o.ExecRoot = filepath.Join(t.TempDir(), "other")
	e.o.Keeper = keeper.NewClient(e.o.ExecRoot)
	var signals atomic.Int32
	over := make(chan struct{})
	answering(t, e.o.ExecRoot, func(op keeper.Op) keeper.Response {
		switch {
		case op != keeper.OpSignal:
		case signals.Add(1) == 1:
			return keeper.Response{}
		case signals.Load() == 2: // the engine has stored its end after the first
			close(over)
		}
		return keeper.Response{Error: keeper.NewWireError(keeper.Classed(errdefs.ErrNotFound, "No such container: web"))}
	})
	c, err := e.entry("web")
	if err != nil {
		t.Fatal(err)
	}
	r := c.latest.Load()
	if err := e.end(t.Context(), r, 1, 0, over); err != nil || signals.Load() != 2 {
		t.Errorf("stop without patience, after %d signals: %v", signals.Load(), err)
	}
	if err := e.end(t.Context(), r, 1, -1, over); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := e.kill(t.Context(), r, over); err != nil {
		t.Errorf("kill: %v", err)
	}
	client, server := net.Pipe()
	defer client.Close()
	hijack := func() (net.Conn, []byte, error) { return server, nil, nil }
	said := make(chan string)
	go func() {
		b := make([]byte, 512)
		n, _ := client.Read(b) // nothing is what fails the test
		said <- string(b[:n])
	}()
	if err := e.Attach(t.Context(), "web", AttachOptions{Stream: true, Stdout: true}, hijack); err != nil {
		t.Errorf("attach: %v", err)
	}
	if s := <-said; !strings.Contains(s, "is not running") {
		t.Errorf("attach says %q", s)
	}
	if err := (&Limits{records: e.records}).apply(t.Context(), r, r.HostConfig, box.Resources{}); err != nil {
		t.Errorf("update: %v", err) // it counts from the next start
	}
	_, gone := e.o.Keeper.Exec(t.Context(), keeper.ExecRequest{ContainerID: r.ID})
	for verb, err := range map[string]error{
		"exec":        e.execFailed(&execs.Execution{ID: "x", Container: r.ID}, gone),
		"kill -s HUP": e.Kill(t.Context(), "web", "HUP"),
		"pause":       e.Pause(t.Context(), "web"),
		"resize":      e.Resize(t.Context(), "web", 1, 1),
	} {
		if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is not running") {
			t.Errorf("%s: %v", verb, err)
		}
	}
}
