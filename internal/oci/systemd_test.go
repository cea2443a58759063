package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/box/scope"
)

func TestScopeOf(t *testing.T) {
	for at, want := range map[string]string{
		"machine.slice:libpod:abc":      "machine.slice /machine.slice libpod-abc.scope",
		"":                              "system.slice /system.slice hezi-oci-id.scope",
		":docker:abc":                   "system.slice /system.slice docker-abc.scope",
		"-.slice:p:n":                   "-.slice / p-n.scope",
		"kubepods-besteffort.slice:a:b": "kubepods-besteffort.slice /kubepods.slice/kubepods-besteffort.slice a-b.scope",
	} {
		s := &box.Spec{}
		slice, err := scoped(s, "id", at)
		if got := slice + " " + s.Cgroup.Parent + " " + s.Cgroup.Scope; err != nil || got != want || s.ID != "id" || !s.Cgroup.Foreign {
			t.Errorf("%q: %s, %v; want %s", at, got, err, want)
		}
	}
	for at, want := range map[string]string{
		"/a/b":                                  `format "slice:prefix:name"`,
		"a:b:c:d":                               `format "slice:prefix:name"`,
		"mine:a:b":                              `"mine" is no slice`,
		"../x.slice:a:b":                        "is no slice",
		"a.slice:b:c.slice":                     "is a slice, not a scope",
		"a.slice:b:":                            "no name of a scope",
		"a.slice:../b:c":                        "no name of a scope",
		"a.slice:b:c d":                         "no name of a scope",
		"a.slice:cpu.:x":                        "invalid cgroup parent",
		"a.slice:b:" + strings.Repeat("c", 300): "no name of a scope",
	} {
		if _, err := scoped(&box.Spec{}, "id", at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %q", at, err, want)
		}
	}
}

// TestOver: an update leaves systemd the limits that it does not have.
func TestOver(t *testing.T) {
	old := box.Resources{Memory: 1, MemorySwap: 2, PidsLimit: 3, CpusetCpus: "0", IO: &cgroup.IO{Weight: 100, ReadBps: []cgroup.DeviceLimit{{Major: 8, Value: 1}, {Major: 9, Value: 2}}}}
	got := over(old, box.Resources{PidsLimit: -1, CPUShares: 512, IO: &cgroup.IO{ReadBps: []cgroup.DeviceLimit{{Major: 8, Value: 5}}}})
	if got.Memory != 1 || got.MemorySwap != 2 || got.PidsLimit != -1 || got.CPUShares != 512 || got.CpusetCpus != "0" || got.IO.Weight != 100 {
		t.Errorf("%+v %+v", got, got.IO)
	}
	if l := got.IO.ReadBps; len(l) != 2 || l[0] != (cgroup.DeviceLimit{Major: 8, Value: 5}) || l[1] != old.IO.ReadBps[1] {
		t.Errorf("%+v", l)
	}
	if old.PidsLimit != 3 || old.IO.ReadBps[0].Value != 1 {
		t.Errorf("the old ones have changed: %+v", old)
	}
	if got := over(old, box.Resources{}); got.IO != old.IO {
		t.Errorf("%+v", got)
	}
}

// TestWithoutSystemd: who asks for it where it does not run is told, and nothing
// is left. test/vm/debian.sh tests it where it does.
func TestWithoutSystemd(t *testing.T) {
	if scope.Running() {
		t.Skip("a machine without systemd is needed, and it runs this one: test/vm/debian.sh tests scopes there")
	}
	b := bundleOf(t, "exit 0", func(c *specs.Spec) { c.Linux.CgroupsPath = "system.slice:a:b" })
	if out, code := b.call("--systemd-cgroup", "create", "--bundle", b.bundle, "r"); code != 1 || !strings.Contains(out, "systemd does not run this machine") || !strings.Contains(out, "--cgroup-manager=cgroupfs") {
		t.Errorf("exit %d: %q", code, out)
	}
	if out := b.must("list", "-q"); out != "" {
		t.Errorf("left: %s", out)
	}
	b = bundleOf(t, "exit 0", nil)
	if out, code := b.call("--systemd-cgroup", "create", "--bundle", b.bundle, "r"); code != 1 || !strings.Contains(out, `format "slice:prefix:name"`) {
		t.Errorf("exit %d: %q", code, out)
	}
}

// TestExecGroup: exec enters a group inside the container's that is there.
func TestExecGroup(t *testing.T) {
	b := bundleOf(t, "sleep 1000", nil)
	b.must("create", "--bundle", b.bundle, "g")
	b.must("start", "g")
	defer b.must("delete", "--force", "g")
	c := &container{record: b.record("g")}
	at, line := "inner", "0::/inner\n"
	if key, _ := cgroup.InnerHierarchy(c.CgroupPaths); key != "" {
		at, line = key+":inner", ":freezer:/inner\n"
	}
	if out, code := b.call("exec", "--cgroup", at, "g", "cat", "/proc/self/cgroup"); code != 255 || !strings.Contains(out, "no such file") {
		t.Errorf("one that is not there: exit %d, %q", code, out)
	}
	if _, err := cgroup.MakeInner(c.CgroupPaths, "inner"); err != nil {
		t.Fatal(err)
	}
	if out := b.must("exec", "--cgroup", at, "g", "cat", "/proc/self/cgroup"); !strings.Contains(out, line) {
		t.Errorf("not in the group: %q", out)
	}
	for at, want := range map[string]string{"odd:inner": "is not supported", at[:len(at)-5] + "..": "just below the container's", at[:len(at)-5] + "a/b": "just below the container's"} {
		if out, code := b.call("exec", "--cgroup", at, "g", "id"); code != 255 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, %q", at, code, out)
		}
	}
}

func (b bench) record(id string) (r record) {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.root, id, stateFile))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}
