package attach

import (
	"maps"
	"slices"
	"testing"

	apinet "github.com/moby/moby/api/types/network"
)

func TestLinks(t *testing.T) {
	for l, want := range map[string][2]string{
		"db:store": {"db", "store"}, "db": {"db", "db"}, "/db:/web/store": {"db", "store"}, "/db": {"db", "db"},
		"": {}, ":x": {}, "db:": {}, "a:b:c": {}, "db:web/": {},
	} {
		name, alias, err := ParseLink(l)
		if name != want[0] || alias != want[1] || (err == nil) != (want[0] != "") {
			t.Errorf("%q: %q %q %v, want %q", l, name, alias, err, want)
		}
	}
}

// TestNamesOfRequests: by which names a container is found and finds others, in each
// of its networks.
func TestNamesOfRequests(t *testing.T) {
	c := Container{ID: "0123456789abcdef", Name: "/web", Hostname: "front", Domain: "example.net", Mode: "bridge", BridgeLinks: []string{"db:store"},
		Wanted: Wanted{"bridge": {}, "back": {Aliases: []string{"www", "web"}, Links: []string{"cache:c"}}}}
	got := c.Requests()
	if len(got) != 2 || got[0].Network != "bridge" || got[1].Network != "back" {
		t.Fatalf("requests %+v", got)
	}
	if want := []string{"web", "0123456789ab", "front", "front.example.net"}; !slices.Equal(got[0].Names, want) {
		t.Errorf("on the bridge %v, want %v", got[0].Names, want)
	}
	if want := []string{"web", "0123456789ab", "www", "front", "front.example.net"}; !slices.Equal(got[1].Names, want) {
		t.Errorf("in the other network %v, want %v", got[1].Names, want)
	}
	if !maps.Equal(got[0].Links, map[string]string{"store": "db"}) || !maps.Equal(got[1].Links, map[string]string{"c": "cache"}) {
		t.Errorf("links %v and %v", got[0].Links, got[1].Links)
	}
	for _, s := range []*apinet.EndpointSettings{{Aliases: []string{"x"}}, {Links: []string{"x"}}} {
		if _, err := Connect(apinet.NetworkHost, s); err == nil {
			t.Errorf("%+v is taken in the host's network", s)
		}
	}
}
