package engine

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// TestPublishedTwice: a binding that is there already could not be taken at the next start.
func TestPublishedTwice(t *testing.T) {
	web := network.MustParsePort("80/tcp")
	r := &record{Config: &container.Config{}, HostConfig: &container.HostConfig{PortBindings: network.PortMap{web: {{HostPort: "8080"}}}}}
	if _, err := republished(r, network.PortMap{web: {{HostPort: "8080"}}}, nil); !errdefs.IsConflict(err) {
		t.Errorf("the same binding: %v", err)
	}
	got, err := republished(r, network.PortMap{web: {{HostPort: "8081"}, {}}}, nil)
	if err != nil || len(got[web]) != 3 {
		t.Errorf("others: %v %v", got, err)
	}
	got, err = republished(r, network.PortMap{web: {{HostPort: "8080"}}}, network.PortMap{web: nil})
	if err != nil || len(got[web]) != 1 {
		t.Errorf("in the place of itself: %v %v", got, err)
	}
}
