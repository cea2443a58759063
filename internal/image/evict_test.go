package image

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	bolt "go.etcd.io/bbolt"
)

// The budget takes what is dangling first, then what was unused for longest,
// and never what a container has, what is labelled, or what is fresh.
func TestEvict(t *testing.T) {
	var uses []Use
	var mu sync.Mutex
	var events []string
	s, err := Open(context.Background(), Options{Root: t.TempDir(), Users: func() []Use { return uses },
		Publish: func(_, action, _ string, attributes map[string]string) {
			mu.Lock()
			defer mu.Unlock()
			if attributes["reason"] != "" {
				events = append(events, action+" "+attributes["name"]+": "+attributes["reason"])
			}
		}})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	for _, name := range []string{"used", "old", "older", "fresh"} {
		load(t, s, saved(t, small(t, strings.Repeat(name, 20_000)), name+":1"))
	}
	load(t, s, saved(t, labelled(t, "kept", map[string]string{keepLabel: "true"}), "kept:1"))
	load(t, s, saved(t, small(t, "was"), "moved:1"))
	load(t, s, saved(t, small(t, "is"), "moved:1")) // the first one is dangling
	must(t, s.Tag(t.Context(), "older:1", "older:2"))
	s.trees.Drain(t.Context())
	now := time.Now()
	s.uses.mu.Lock()
	for name, ago := range map[string]time.Duration{"used": 90 * time.Hour, "older": 50 * time.Hour, "old": 40 * time.Hour, "moved": 30 * time.Hour, "kept": 99 * time.Hour} {
		s.uses.at[mustResolve(t, s, name+":1").ID] = now.Add(-ago).Unix()
	}
	s.uses.mu.Unlock()
	backdate(t, s, "used:1", "old:1", "older:1", "older:2", "kept:1", "moved:1")
	uses = []Use{{Container: "c", Image: mustResolve(t, s, "used:1").ID, Name: "used:1"}}
	names := func() (list []string) {
		t.Helper()
		c, err := s.catalog(t.Context())
		must(t, err)
		for n := range maps.Keys(c.byName) {
			if strings.HasPrefix(n, danglingPrefix) {
				n = "docker.io/library/dangling"
			}
			list = append(list, strings.TrimPrefix(n, "docker.io/library/"))
		}
		slices.Sort(list)
		return list
	}
	evict := func(need int64, want ...string) {
		t.Helper()
		before := contentDisk(t, s)
		freed, err := Upkeep{s}.Evict(t.Context(), need, now.Add(-time.Hour), "for the test")
		must(t, err)
		if got := names(); !slices.Equal(got, want) {
			t.Errorf("need %d: left %q, not %q", need, got, want)
		}
		if is := before - contentDisk(t, s); is != freed {
			t.Errorf("freed %d bytes, said %d", is, freed)
		}
	}
	evict(0, "dangling", "fresh:1", "kept:1", "moved:1", "old:1", "older:1", "older:2", "used:1")
	// The dangling one is as new as the others by its name: it is fresh.
	evict(1, "dangling", "fresh:1", "kept:1", "moved:1", "old:1", "used:1")
	c, err := s.catalog(t.Context())
	must(t, err)
	for n, i := range c.byName {
		if strings.HasPrefix(n, danglingPrefix) {
			backdateName(t, s, n)
			s.uses.mu.Lock()
			s.uses.at[i.Target.Digest] = now.Add(-2 * time.Hour).Unix()
			s.uses.mu.Unlock()
		}
	}
	evict(1, "fresh:1", "kept:1", "moved:1", "old:1", "used:1")
	evict(1<<40, "fresh:1", "kept:1", "used:1")
	mu.Lock()
	defer mu.Unlock()
	if !slices.Contains(events, "untag older:1: for the test") || !slices.ContainsFunc(events, func(e string) bool {
		return strings.HasPrefix(e, "delete sha256:") && strings.HasSuffix(e, ": for the test")
	}) {
		t.Errorf("events %q", events)
	}
}

// backdate makes names as if they were given long ago.
func backdate(t *testing.T, s *Service, names ...string) {
	t.Helper()
	for _, n := range names {
		backdateName(t, s, "docker.io/library/"+n)
	}
}

func backdateName(t *testing.T, s *Service, name string) {
	t.Helper()
	must(t, s.bolt.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("v1"))
		for _, n := range []string{namespace, "images", name} {
			b = b.Bucket([]byte(n))
		}
		return boltutil.WriteTimestamps(b, time.Unix(1, 0), time.Unix(1, 0))
	}))
	s.changed()
}
