package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

func TestTransitions(t *testing.T) {
	if err := transition(container.StateCreated, container.StateRunning); err != nil {
		t.Error(err)
	}
	var illegal *TransitionError
	if err := transition(container.StateExited, container.StatePaused); !errors.As(err, &illegal) || !errdefs.IsConflict(err) {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	n := newNames()
	a, b := strings.Repeat("ab", 32), "aa"+strings.Repeat("cd", 31)
	if _, err := n.reserve(a, "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.reserve(b, "/web"); !errdefs.IsConflict(err) || !strings.HasPrefix(err.Error(), `Conflict. The container name "/web" is already in use by container "abab`) {
		t.Fatal(err)
	}
	if _, err := n.reserve(b, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := n.reserve(b, "-x"); !errdefs.IsInvalidArgument(err) {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{"web": a, "/web": a, "ab": a, "aa": b} {
		if id, err := n.resolve(ref); err != nil || id != want {
			t.Errorf("%s: %s %v", ref, id, err)
		}
	}
	if _, err := n.resolve("a"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	n.release(a)
	if _, err := n.resolve("web"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
