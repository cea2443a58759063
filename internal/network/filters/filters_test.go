package filters

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

type filter = map[string]map[string]bool

func TestMatch(t *testing.T) {
	var n network.Inspect
	n.Name, n.ID, n.Driver, n.Scope, n.Labels = "shop_front", "0123456789ab", "bridge", "local", map[string]string{"tier": "web", "team": ""}
	used := n
	used.Containers = map[string]network.EndpointResource{"c": {}}
	for _, c := range []struct {
		n    network.Inspect
		own  bool
		f    filter
		want bool
	}{
		{n, false, nil, true},
		{n, false, filter{"name": {"front": true}}, true},
		{n, false, filter{"name": {"^shop_.*t$": true}}, true},
		{n, false, filter{"name": {"^front": true}}, false},
		{n, false, filter{"name": {"(": true}}, false},
		{n, false, filter{"name": {"back": true, "shop": true}}, true},
		{n, false, filter{"id": {"0123": true}}, true},
		{n, false, filter{"id": {"123": true}}, false},
		{n, false, filter{"driver": {"macvlan": true}}, false},
		{n, false, filter{"driver": {"bridge": true}, "scope": {"swarm": true}}, false},
		{n, false, filter{"type": {"custom": true}}, true},
		{n, true, filter{"type": {"custom": true}}, false},
		{n, false, filter{"dangling": {"1": true}}, true},
		{used, false, filter{"dangling": {"true": true}}, false},
		{n, true, filter{"dangling": {"false": true}}, true},
		{n, false, filter{"label": {"tier": true, "team=": true}}, true},
		{n, false, filter{"label": {"tier": true, "team=x": true}}, false},
		{n, false, filter{"label!": {"tier=db": true}}, true},
		{n, false, filter{"label!": {"tier": true}}, false},
		{n, false, filter{"until": {"24h": true}}, true},
	} {
		if got := Match(c.n, c.own, c.f); got != c.want {
			t.Errorf("%v, own %v: %v", c.f, c.own, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, f := range []filter{{"shape": {"round": true}}, {"dangling": {"maybe": true}}, {"dangling": {"true": true, "1": true}}, {"type": {"": true}}} {
		if err := Check(f, "dangling", "type"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", f, err)
		}
	}
	if err := Check(filter{"dangling": {"0": true}}, "dangling"); err != nil {
		t.Error(err)
	}
}
