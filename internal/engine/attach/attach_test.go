package attach

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	apinet "github.com/moby/moby/api/types/network"

	"hezi/internal/network"
)

// TestWanted: which networks a request means. Those that it names are all: its mode adds
// none, as in Docker.
func TestWanted(t *testing.T) {
	resolve := func(ref string) (id, name string, err error) {
		if ref == "own" || ref == "0123456789ab" {
			return strings.Repeat("0123456789ab", 5), "own", nil
		}
		return "", "", errors.New("network " + ref + " not found")
	}
	for _, x := range []struct {
		mode  container.NetworkMode
		names string
		want  string // "!": an error
	}{
		{"", "", "bridge"},
		{"default", "default", "bridge"},
		{"default", "own", "own"},
		{"bridge", "bridge own", "bridge own"},
		{"own", "", "own"},
		{"own", "other", "other"},
		{"0123456789ab", "", "own"},
		{"0123456789ab", "own", "own"},
		{"own", "own 0123456789ab", "!"},
		{"none", "own", "!"},
		{"host", "host own", "!"},
		{"container:x", "own", "!"},
		{"container:x", "", ""},
	} {
		q := &apinet.NetworkingConfig{EndpointsConfig: map[string]*apinet.EndpointSettings{}}
		for _, name := range strings.Fields(x.names) {
			q.EndpointsConfig[name] = nil
		}
		w, err := Check(q, &container.HostConfig{NetworkMode: x.mode})
		if err == nil {
			w, err = w.Named(resolve)
		}
		got := strings.Join(slices.Sorted(maps.Keys(w)), " ")
		if err != nil {
			got = "!"
		}
		if got != x.want {
			t.Errorf("--network %s with endpoints %q: %q, want %q (%v)", x.mode, x.names, got, x.want, err)
		}
	}
}

// TestShownNames: inspect shows the names that a container has now.
func TestShownNames(t *testing.T) {
	c := Container{ID: "0123456789abcdef", Name: "new", Mode: "own", Wanted: Wanted{"own": {}}}
	box := &network.Sandbox{Endpoints: []network.Endpoint{{Network: "own", Settings: apinet.EndpointSettings{NetworkID: "id", DNSNames: []string{"old"}}}}}
	s := c.Shown(box, func(string) string { return "id" })["own"]
	if want := []string{"new", "0123456789ab"}; !slices.Equal(s.DNSNames, want) {
		t.Errorf("%v, want %v", s.DNSNames, want)
	}
}
