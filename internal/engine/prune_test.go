package engine

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/disk"
	"hezi/internal/keeper"
)

// agreeable is a keeper that has nothing and says yes.
func agreeable(t *testing.T, execRoot string) {
	t.Helper()
	answering(t, execRoot, func(keeper.Op) keeper.Response { return keeper.Response{} })
}

// answering is a keeper that answers every request by what is asked for.
func answering(t *testing.T, execRoot string, answer func(keeper.Op) keeper.Response) {
	t.Helper()
	path := keeper.SocketPath(execRoot)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			var q keeper.Request
			if fds, err := keeper.ReadFrame(conn, &q); err == nil {
				keeper.CloseFDs(fds)
				if err := keeper.WriteFrame(conn, answer(q.Op)); err != nil {
					t.Error(err)
				}
			}
			conn.Close()
		}
	}()
}

func TestPrune(t *testing.T) {
	now := time.Now()
	records := []*record{
		{Name: "ancient", State: container.StateExited, Created: now.Add(-48 * time.Hour)},
		{Name: "kept", State: container.StateExited, Config: &container.Config{Labels: map[string]string{"keep": "yes"}}, Created: now.Add(-48 * time.Hour)},
		{Name: "young", State: container.StateCreated, Created: now.Add(-time.Hour)},
		{Name: "runs", State: container.StateRunning, Created: now.Add(-48 * time.Hour)},
		{Name: "loops", State: container.StateRestarting, Created: now.Add(-48 * time.Hour)},
	}
	e := kept(t, records...)
	for _, c := range []struct {
		f    filters
		want []string
	}{
		{filters{"until": {"24h": true}, "label!": {"keep": true}}, []string{id(1)}},
		{filters{"label": {"keep=no": true}}, nil},
		{filters{"until": {"24h": true}, "label": {"keep=yes": true}}, []string{id(2)}},
		{nil, []string{id(3)}},
		{nil, nil},
	} {
		got, err := e.PruneContainers(t.Context(), disk.PruneOptions{Filters: c.f})
		if err != nil || !slices.Equal(got.ContainersDeleted, c.want) || got.SpaceReclaimed != uint64(1000*len(c.want)) {
			t.Errorf("%v: %+v %v, want %v", c.f, got, err, c.want)
		}
	}
	list, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || named(list) != "runs loops" && named(list) != "loops runs" {
		t.Error(named(list), err)
	}
}
