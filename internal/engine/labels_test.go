package engine

import (
	"testing"

	"github.com/moby/moby/api/types/container"
)

// TestNeighbourly: who is in the network of another reads its files of /etc, so
// that a start of that one must leave them readable.
func TestNeighbourly(t *testing.T) {
	in := func(name, of string, state container.ContainerState) *record {
		return &record{Name: name, State: state, HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(of)}}
	}
	e := kept(t, in("one", "bridge", container.StateExited), in("two", "bridge", container.StateRunning), in("three", "bridge", container.StateRunning),
		in("guest", "container:one", container.StateRunning), in("gone", "container:two", container.StateExited), in("lost", "container:nobody", container.StateRunning))
	for name, want := range map[string]bool{"one": true, "two": false, "three": false, "guest": false} {
		c, err := e.entry(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := neighbourly(e.records, c.latest.Load()); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}
