package engine

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/engine/attach"
)

// TestMayConnect: Docker's words where a container takes no other network, running or not.
func TestMayConnect(t *testing.T) {
	const shared, none, host = "container sharing network namespace", "private (none) mode", "must be created in host network mode"
	for _, x := range []struct {
		mode   container.NetworkMode
		wanted attach.Wanted
		name   string
		want   string
	}{
		{"bridge", attach.Wanted{"bridge": {}}, "own", ""},
		{"none", attach.Wanted{"none": {}}, "own", none},
		{"none", attach.Wanted{}, "own", ""}, // it was disconnected
		{"bridge", attach.Wanted{"bridge": {}}, network.NetworkNone, none},
		{"bridge", attach.Wanted{"bridge": {}}, network.NetworkHost, host},
		{"host", attach.Wanted{"host": {}}, "own", shared},
		{"container:x", nil, "own", shared},
	} {
		err := mayConnect(&record{ID: "0123456789ab", Name: "c", Config: &container.Config{}, HostConfig: &container.HostConfig{NetworkMode: x.mode}, Networks: x.wanted}, x.name)
		if x.want == "" && err != nil || x.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("--network %s to %s: %v", x.mode, x.name, err)
		}
	}
}

// TestAsksFor: a container can be taken out of a network that was removed.
func TestAsksFor(t *testing.T) {
	r := &record{Networks: attach.Wanted{"gone": {}}, HostConfig: &container.HostConfig{}}
	if key, ok := r.asksFor(nil, "", "gone"); key != "gone" || !ok {
		t.Errorf("%q %v", key, ok)
	}
	if _, ok := r.asksFor(nil, "", "other"); ok {
		t.Error("a network that the container never asked for")
	}
}
