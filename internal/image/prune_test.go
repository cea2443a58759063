package image

import (
	"context"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"hezi/internal/disk"
	"hezi/internal/image/registry"
)

// openUsed opens a service whose containers a test says.
func openUsed(t *testing.T, uses *[]Use) *Service {
	t.Helper()
	s, err := Open(context.Background(), Options{Root: t.TempDir(), Users: func() []Use { return *uses }})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func pruneOf(t *testing.T, s *Service, o disk.PruneOptions) (list []string, bytes uint64) {
	t.Helper()
	r, err := Upkeep{s}.Prune(t.Context(), o)
	must(t, err)
	return responses(r.ImagesDeleted), r.SpaceReclaimed
}

func responses(list []imagetypes.DeleteResponse) (out []string) {
	for _, d := range list {
		if d.Untagged != "" {
			out = append(out, "untagged "+d.Untagged)
		} else {
			out = append(out, "deleted "+d.Deleted[:19])
		}
	}
	return out
}

func filter(key string, values ...string) map[string]map[string]bool {
	f := map[string]map[string]bool{key: {}}
	for _, v := range values {
		f[key][v] = true
	}
	return f
}

func labelled(t *testing.T, text string, labels map[string]string) v1.Image {
	t.Helper()
	img := small(t, text)
	c, err := img.ConfigFile()
	must(t, err)
	c = c.DeepCopy()
	c.Config.Labels = labels
	img, err = mutate.ConfigFile(img, c)
	must(t, err)
	return img
}

// contentDisk is what du counts in the folders of content and layers, but for
// the folders that are always there.
func contentDisk(t *testing.T, s *Service) (n int64) {
	t.Helper()
	s.trees.Drain(t.Context())
	for _, dir := range []string{"content/blobs/sha256", "layers/snapshots", "content/ingest"} {
		all, err := disk.Usage(t.Context(), filepath.Join(s.root, dir))
		must(t, err)
		n += all - disk.Blocks(filepath.Join(s.root, dir))
	}
	return n
}

func TestPrune(t *testing.T) {
	var uses []Use
	s := openUsed(t, &uses)
	load(t, s, saved(t, small(t, "a"), "a:1", "a:2"))
	load(t, s, saved(t, small(t, "b"), "b:1"))
	load(t, s, saved(t, labelled(t, "c", map[string]string{"keep": "yes"}), "c:1"))
	load(t, s, saved(t, small(t, "old"), "x:1"))
	load(t, s, saved(t, small(t, "new"), "x:1")) // the old one is dangling now
	s.trees.Drain(t.Context())
	old := ""
	c, err := s.catalog(t.Context())
	must(t, err)
	for name := range c.byName {
		if strings.HasPrefix(name, danglingPrefix) {
			old = strings.TrimPrefix(name, danglingPrefix)
		}
	}
	id := func(ref string) string { return mustResolve(t, s, ref).ID.String() }
	for _, bad := range []map[string]map[string]bool{filter("dangling", "maybe"), filter("reference", "a"), filter("until", "yesterday"), filter("dangling", "true", "false")} {
		if _, err := (Upkeep{s}).Prune(t.Context(), disk.PruneOptions{Filters: bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	all := filter("dangling", "false")
	with := func(f map[string]map[string]bool) map[string]map[string]bool {
		f = maps.Clone(f)
		f["dangling"] = all["dangling"]
		return f
	}
	a, b, cc, x := id("a:1"), id("b:1"), id("c:1"), id("x:1")
	short := func(id string) string { return "deleted " + id[:19] }
	for _, step := range []struct {
		name    string
		uses    []Use
		filters map[string]map[string]bool
		without string
		want    []string
	}{
		{"dangling", nil, nil, "", []string{"untagged " + old, short(old)}},
		{"of a label", nil, with(filter("label", "keep=yes")), "", []string{"untagged c:1", short(cc)}},
		{"without a label", nil, with(filter("label!", "keep")), "", []string{"untagged a:1", "untagged a:2", short(a), "untagged b:1", short(b), "untagged x:1", short(x), "untagged " + old, short(old)}},
		{"old ones", nil, with(filter("until", "1h")), "", nil},
		{"all but what is used, by the names that were used", []Use{{Container: "1", Image: digest.Digest(a), Name: "a:1"}, {Container: "2", Image: digest.Digest(b), Name: b[7:19]}}, all, "",
			[]string{"untagged a:2", "untagged c:1", short(cc), "untagged x:1", short(x), "untagged " + old, short(old)}},
		{"what is used by a digest keeps one name", []Use{{Container: "1", Image: digest.Digest(a), Name: a}}, all, "",
			[]string{"untagged a:1", "untagged b:1", short(b), "untagged c:1", short(cc), "untagged x:1", short(x), "untagged " + old, short(old)}},
		{"containers that are to go", []Use{{Container: "1", Image: digest.Digest(a), Name: "a:1"}, {Container: "2", Image: digest.Digest(b), Name: "b"}}, all, "1",
			[]string{"untagged a:1", "untagged a:2", short(a), "untagged c:1", short(cc), "untagged x:1", short(x), "untagged " + old, short(old)}},
	} {
		uses = step.uses
		got, bytes := pruneOf(t, s, disk.PruneOptions{Filters: step.filters, DryRun: true, Without: map[string]bool{step.without: true}})
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, not %q", step.name, got, step.want)
		}
		if (bytes == 0) != (step.want == nil) {
			t.Errorf("%s: %d bytes", step.name, bytes)
		}
	}
	// A dry run has removed nothing, and tells what the real one frees.
	uses = []Use{{Container: "1", Image: digest.Digest(a), Name: "a:1"}}
	before := contentDisk(t, s)
	plan, bytes := pruneOf(t, s, disk.PruneOptions{Filters: all, DryRun: true})
	if now := contentDisk(t, s); now != before {
		t.Errorf("a dry run changed %d bytes to %d", before, now)
	}
	done, freed := pruneOf(t, s, disk.PruneOptions{Filters: all})
	if !slices.Equal(plan, done) || bytes != freed {
		t.Errorf("planned %q %d, done %q %d", plan, bytes, done, freed)
	}
	if now := contentDisk(t, s); before-now != int64(freed) {
		t.Errorf("freed %d bytes on disk, said %d", before-now, freed)
	}
	uses = nil
	pruneOf(t, s, disk.PruneOptions{Filters: all})
	if n := contentDisk(t, s); n != 0 {
		t.Errorf("%d bytes are left of nothing", n)
	}
}

// What a pull had downloaded when it was cut off goes, too; what a pull is
// downloading stays.
func TestPruneGivesUpWhatWasCutOff(t *testing.T) {
	reg := newFake(t)
	s := open(t, registry.Config{Insecure: []string{reg.addr}})
	img := imageOf(t, []entry{file("first", noise(400_000))}, []entry{file("big", noise(4<<20))})
	reg.push("x:1", img)
	list, err := img.Layers()
	must(t, err)
	big, err := list[1].Digest()
	must(t, err)
	cut := func() (stop func()) {
		arrived, hang := make(chan struct{}, 8), make(chan struct{})
		reg.misbehave(hangAfter(reg, big.String(), 3<<20, arrived, hang))
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.Pull(ctx, PullRequest{Reference: reg.addr + "/x:1"}, nil)
		}()
		<-arrived
		waitForBytes(t, filepath.Join(s.root, "content", "ingest"), 3<<20)
		return func() {
			cancel()
			<-ended
			close(hang)
		}
	}
	stop := cut()
	if _, bytes := pruneOf(t, s, disk.PruneOptions{}); bytes != 0 {
		t.Errorf("%d bytes of a pull under way were pruned", bytes)
	}
	waitForBytes(t, filepath.Join(s.root, "content", "ingest"), 3<<20)
	stop()
	_, planned := pruneOf(t, s, disk.PruneOptions{DryRun: true})
	_, bytes := pruneOf(t, s, disk.PruneOptions{})
	if bytes < 3<<20 || bytes != planned {
		t.Errorf("%d bytes were pruned, %d planned", bytes, planned)
	}
	noLeases(t, s)
	if n := contentDisk(t, s); n != 0 {
		var left []string
		_ = filepath.WalkDir(s.root, func(p string, _ fs.DirEntry, _ error) error { left = append(left, p); return nil })
		t.Errorf("%d bytes are left: %q", n, left)
	}
	// A pull begins anew after that.
	reg.misbehave(nil)
	reg.pull(s, "x:1")
}

func TestLastUsed(t *testing.T) {
	s, err := Open(context.Background(), Options{Root: t.TempDir()})
	must(t, err)
	begin := time.Now().Truncate(time.Second)
	load(t, s, saved(t, small(t, "x"), "x:1"))
	load(t, s, saved(t, small(t, "y"), "y:1"))
	x, y := mustResolve(t, s, "x:1").ID, mustResolve(t, s, "y:1").ID
	of := func(id digest.Digest) time.Time {
		t.Helper()
		list, err := Upkeep{s}.LastUsed(t.Context())
		must(t, err)
		return list[id.String()]
	}
	if at := of(x); at.Before(begin) || at.After(time.Now()) {
		t.Errorf("loaded, and used at %s", at)
	}
	// As if it were long ago.
	backdate(t, s, "x:1", "y:1")
	later := time.Now()
	s.uses.mu.Lock()
	s.uses.at[x], s.uses.news[x] = later.Unix()+5, later.Unix()+5
	s.uses.mu.Unlock()
	s = reopen(t, s)
	if at := of(x); at.Unix() != later.Unix()+5 {
		t.Errorf("after a restart: %s, not %s", at, later)
	}
	s.Touch(y)
	if at := of(y); at.Before(begin) {
		t.Errorf("%s", at)
	}
	remove(t, s, "x:1", false)
	must(t, s.uses.write(t.Context()))
	if len(s.uses.at) != 1 {
		t.Errorf("remembered of images that are gone: %v", s.uses.at)
	}
}
