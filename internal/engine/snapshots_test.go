package engine

import (
	"testing"

	"hezi/internal/snapshot"
)

func TestApart(t *testing.T) {
	at := func(chains ...snapshot.Chain) *record {
		r := &record{Chain: chains[0]}
		for _, c := range chains[1:] {
			r.Snapshots = append(r.Snapshots, savepoint{Chain: c})
		}
		return r
	}
	for _, c := range []struct {
		r    *record
		want string
	}{
		{at(nil), ""},
		{at(snapshot.Chain{"2", ""}), ""}, // one is written to
		{at(snapshot.Chain{"3", "2", ""}), "2 on "},
		{at(snapshot.Chain{"3", "2", ""}, snapshot.Chain{""}), ""},                                  // a snapshot begins between them
		{at(snapshot.Chain{"3", "2", ""}, snapshot.Chain{"4", ""}), ""},                             // a branch begins there
		{at(snapshot.Chain{"5", ""}, snapshot.Chain{"4", "3", ""}), "4 on 3"},                       // of a snapshot alone
		{at(snapshot.Chain{"5", "4", "3", ""}, snapshot.Chain{"4", "3", ""}), "4 on 3"},             // of both
		{at(snapshot.Chain{"6", "5", "4", "3"}, snapshot.Chain{"4", "3"}, snapshot.Chain{"3"}), ""}, // 5 lies on the first snapshot, 4 on the second
	} {
		got := ""
		if above, below, ok := apart(c.r); ok {
			got = above + " on " + below
		}
		if got != c.want {
			t.Errorf("%q of %q: %q, not %q", c.r.Chain, c.r.Snapshots, got, c.want)
		}
	}
}
