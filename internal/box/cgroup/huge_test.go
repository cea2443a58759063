package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPageNames(t *testing.T) {
	for bytes, want := range map[int64]string{64 << 10: "64KB", 2 << 20: "2MB", 32 << 20: "32MB", 1 << 30: "1GB", 16 << 30: "16GB"} {
		if got := PageName(bytes); got != want {
			t.Errorf("%d: %s, not %s", bytes, got, want)
		}
	}
	dir := t.TempDir()
	for _, d := range []string{"hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := pageSizes(dir); !slices.Equal(got, []string{"1GB", "2MB", "64KB"}) {
		t.Errorf("%v", got)
	}
}

// TestHugePages: the controller may be on cgroup v2 where the others are on v1.
func TestHugePages(t *testing.T) {
	sizes := pageSizes("/sys/kernel/mm/hugepages")
	if len(sizes) == 0 {
		t.Skip("this kernel has no huge pages")
	}
	each(t, false, func(t *testing.T, d *Driver) {
		size := sizes[len(sizes)-1]
		two := &HugePages{Limits: []HugePage{{size, 4 << 20}}}
		has := slices.ContainsFunc(d.hierarchies, func(h hierarchy) bool { return h.has(hugetlb) })
		if d.Version == 2 {
			text, err := read(d.hierarchies[0].dir, "cgroup.controllers")
			has = err == nil && word(text, hugetlb)
		}
		if !has {
			g := create(t, d, Resources{}, Devices{})
			if err := g.Update(Resources{HugePages: two}); err == nil || !strings.Contains(err.Error(), "hugetlb") {
				t.Errorf("without the controller: %v", err)
			}
			return
		}
		g := create(t, d, Resources{HugePages: two}, Devices{})
		files := []string{"hugetlb." + size + ".max", "hugetlb." + size + ".rsvd.max"}
		dir, none := g.v2(), "max"
		if d.Version == 1 {
			files = []string{"hugetlb." + size + ".limit_in_bytes", "hugetlb." + size + ".rsvd.limit_in_bytes"}
			dir, none = g.paths[hugetlb], "9223372036854771712"
		}
		holds := func(want string) {
			t.Helper()
			for _, f := range files {
				if got, err := read(dir, f); err != nil || got != want {
					t.Errorf("%s: %q, not %q, %v", f, got, want, err)
				}
			}
		}
		holds("4194304")
		if err := g.Update(Resources{HugePages: &HugePages{Limits: []HugePage{{size, 0}, {"3MB", 0}}}}); err == nil || !strings.Contains(err.Error(), "huge pages of 3MB cannot be limited") {
			t.Errorf("a size that there is not: %v", err)
		}
		holds("4194304")
		if err := g.Update(Resources{HugePages: &HugePages{Limits: []HugePage{{size, -1}}}}); err != nil {
			t.Fatal(err)
		}
		if d.Version == 1 {
			got, err := read(dir, files[0])
			if err != nil || len(got) < len(none) {
				t.Errorf("lifted: %q, %v", got, err)
			}
			return
		}
		holds(none)
	})
}

// TestHugePagesBelowSystemd: the group's parent has no such controller until it is
// asked for.
func TestHugePagesBelowSystemd(t *testing.T) {
	sizes := pageSizes("/sys/kernel/mm/hugepages")
	each(t, false, func(t *testing.T, d *Driver) {
		if d.Version != 2 || len(sizes) == 0 {
			t.Skip("only cgroup v2 has parents without a controller")
		}
		root := d.hierarchies[0].dir
		if text, err := read(root, "cgroup.controllers"); err != nil || !word(text, hugetlb) {
			t.Skip("cgroup v2 has no hugetlb controller on this machine")
		}
		slice := filepath.Join(root, d.identity+".slice")
		dir := filepath.Join(slice, "inner.slice", "x.scope")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for _, d := range []string{dir, filepath.Dir(dir), slice} {
				if err := os.Remove(d); err != nil {
					t.Error(err)
				}
			}
		})
		g := &Group{paths: map[string]string{"": dir}, fd: -1}
		if err := g.Limit(Resources{HugePages: &HugePages{Limits: []HugePage{{sizes[0], 0}}}}); err != nil {
			t.Fatal(err)
		}
		if got, err := read(dir, "hugetlb."+sizes[0]+".max"); err != nil || got != "0" {
			t.Errorf("%q, %v", got, err)
		}
	})
}
