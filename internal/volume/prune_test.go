package volume

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"hezi/internal/disk"
)

func TestPrune(t *testing.T) {
	s := open(t, t.TempDir(), &records{m: map[string][]byte{}})
	s.SetInUse(func(name string) []string {
		if name == "used" {
			return []string{"c1"}
		}
		return nil
	})
	for _, name := range []string{"free", "used"} {
		create(t, s, volume.CreateRequest{Name: name})
	}
	create(t, s, volume.CreateRequest{Name: "red", Labels: map[string]string{"colour": "red"}})
	anonymous := create(t, s, volume.CreateRequest{}).Name
	if err := os.WriteFile(filepath.Join(s.root, anonymous, "_data", "f"), make([]byte, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]bool{"all": {"true": true}}
	with := func(key, value string) map[string]map[string]bool {
		return map[string]map[string]bool{"all": {"1": true}, key: {value: true}}
	}
	for _, bad := range []map[string]map[string]bool{{"all": {"perhaps": true}}, {"name": {"x": true}}, {"all": {"true": true, "false": true}}} {
		if _, err := s.Prune(context.Background(), disk.PruneOptions{Filters: bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	sorted := func(names ...string) []string { slices.Sort(names); return names }
	for _, c := range []struct {
		o    disk.PruneOptions
		want []string
	}{
		{disk.PruneOptions{DryRun: true}, []string{anonymous}},
		{disk.PruneOptions{DryRun: true, Filters: all}, sorted("free", "red", anonymous)},
		{disk.PruneOptions{DryRun: true, Filters: with("label", "colour=red")}, []string{"red"}},
		{disk.PruneOptions{DryRun: true, Filters: with("label!", "colour")}, sorted("free", anonymous)},
		{disk.PruneOptions{DryRun: true, Filters: all, Without: map[string]bool{"c1": true}}, sorted("free", "red", "used", anonymous)},
		{disk.PruneOptions{}, []string{anonymous}},
		{disk.PruneOptions{Filters: all}, []string{"free", "red"}},
		{disk.PruneOptions{Filters: all}, []string{}},
	} {
		got, err := s.Prune(context.Background(), c.o)
		if err != nil || !slices.Equal(sorted(got.VolumesDeleted...), c.want) {
			t.Errorf("%+v: %q, %v, not %q", c.o, got.VolumesDeleted, err, c.want)
		}
		if slices.Contains(c.want, anonymous) && got.SpaceReclaimed < 100_000 {
			t.Errorf("%+v: %d bytes", c.o, got.SpaceReclaimed)
		}
	}
	if list, err := s.List(context.Background(), nil); err != nil || len(list) != 1 || list[0].Name != "used" {
		t.Errorf("left: %v, %v", list, err)
	}
}
