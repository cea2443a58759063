package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const (
		tmpfs    = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
		cpu      = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
		memory   = "35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		systemd  = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
		unified  = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
		v2       = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
		strange  = `42 31 0:39 / /mnt/my\040cpu rw - cgroup cgroup rw,cpu,cpuacct` + "\n"
		strange2 = "43 31 0:40 / /mnt/v2 rw - cgroup2 none rw\n"
	)
	c := hierarchy{"/sys/fs/cgroup/cpu,cpuacct", []string{"cpu", "cpuacct"}}
	m := hierarchy{"/sys/fs/cgroup/memory", []string{"memory"}}
	s := hierarchy{"/sys/fs/cgroup/systemd", []string{"name=systemd"}}
	for name, x := range map[string]struct {
		text   string
		v1, v2 []hierarchy
	}{
		"v1":     {tmpfs + cpu + memory + systemd, []hierarchy{c, m, s}, nil},
		"hybrid": {tmpfs + cpu + unified, []hierarchy{c}, []hierarchy{{"/sys/fs/cgroup/unified", []string{""}}}},
		"v2":     {strange2 + v2, nil, []hierarchy{{"/sys/fs/cgroup", []string{""}}, {"/mnt/v2", []string{""}}}},
		"twice":  {strange + cpu, []hierarchy{c}, nil},
		"spaces": {strange, []hierarchy{{"/mnt/my cpu", []string{"cpu", "cpuacct"}}}, nil},
		"broken": {"nonsense\n1 2 3\n - \n", nil, nil},
	} {
		v1, v2 := parse(x.text)
		if !reflect.DeepEqual(v1, x.v1) || !reflect.DeepEqual(v2, x.v2) {
			t.Errorf("%s: %v %v", name, v1, v2)
		}
	}
}

func TestHostileNames(t *testing.T) {
	for _, id := range []string{"../x", "a/b", ".", "..", "a b", "x\n", "cgroup.procs", "memory.max", "tasks", strings.Repeat("a", 201), "é"} {
		if _, err := New(id); err == nil {
			t.Errorf("the identity %q was taken", id)
		}
	}
	each(t, false, func(t *testing.T, d *Driver) {
		for _, leaf := range []string{"", "..", "../x", "a/b", "cgroup.procs", "pids.max", "tasks", "a\x00b"} {
			if _, err := d.Create(t.Context(), "", leaf, Resources{}, Devices{}); err == nil {
				t.Errorf("the leaf %q was taken", leaf)
			}
		}
		for _, parent := range []string{"/", "..", "/../x", "/a/../../b", "//", "/a//b", "/cgroup.procs", "/memory.max", "/a/./b"} {
			if _, err := d.Create(t.Context(), parent, "leaf", Resources{}, Devices{}); err == nil {
				t.Errorf("the parent %q was taken", parent)
			}
		}
	})
	for _, paths := range []map[string]string{nil, {"": "relative/a/b"}, {"": "/"}, {"": "/sys"}, {"": "/sys/fs/../x"}} {
		if _, err := Open(paths); err == nil {
			t.Errorf("%v was opened", paths)
		}
	}
}

func TestCancelled(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.Create(ctx, "", "leaf", Resources{}, Devices{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

func expect(t *testing.T, g *Group, files map[string]string) {
	t.Helper()
	for name, want := range files {
		controller, _, _ := strings.Cut(name, ".")
		if g.v2() != "" {
			controller = ""
		}
		got, err := read(g.paths[controller], name)
		if err != nil || got != want {
			t.Errorf("%s is %q, not %q (%v)", name, got, want, err)
		}
	}
}

func TestLimits(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{Memory: 64 << 20, MemoryReservation: 33 << 20, CPUQuota: 50000, CPUPeriod: 200000,
			CPUShares: 512, CpusetCpus: "0", CpusetMems: "0", PidsLimit: 20}, Devices{})
		if len(g.Warnings()) > 0 {
			t.Logf("warnings: %q", g.Warnings())
		}
		if d.Version == 2 {
			expect(t, g, map[string]string{"memory.max": "67108864", "memory.low": "34603008",
				"cpu.max": "max 100000", "cpu.weight": "59", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "max"})
		} else {
			expect(t, g, map[string]string{"memory.limit_in_bytes": "67108864", "memory.soft_limit_in_bytes": "34603008",
				"cpu.cfs_quota_us": "-1", "cpu.shares": "512", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "max"})
			if exists(g.paths["memory"], memswLimit) {
				expect(t, g, map[string]string{memswLimit: "134217728"})
			}
		}
		if err := g.ApplyLate(); err != nil {
			t.Fatal(err)
		}
		late := map[string]string{"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "200000", "pids.max": "20"}
		if d.Version == 2 {
			late = map[string]string{"cpu.max": "50000 200000", "pids.max": "20"}
		}
		expect(t, g, late)
		// an update in both directions; a group of another process
		again, err := Open(g.Paths())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []Resources{{Memory: 512 << 20, MemorySwap: 600 << 20}, {Memory: 40 << 20, MemorySwap: 50 << 20},
			{Memory: 80 << 20, MemorySwap: -1}, {Memory: 48 << 20}} {
			if err := again.Limit(r); err != nil {
				t.Errorf("%+v: %v", r, err)
			}
		}
		if err := again.Limit(Resources{PidsLimit: -1, CPUQuota: -1}); err != nil {
			t.Error(err)
		}
		late = map[string]string{"cpu.cfs_quota_us": "-1", "pids.max": "max", "memory.limit_in_bytes": "50331648"}
		if d.Version == 2 {
			late = map[string]string{"cpu.max": "max 200000", "pids.max": "max", "memory.max": "50331648"}
		}
		expect(t, g, late)
		if err := again.Limit(Resources{Memory: 2, MemorySwap: 1}); err == nil {
			t.Error("swap below memory was taken")
		}
	})
}

func TestSmallMemoryIsLate(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{Memory: 6 << 20}, Devices{})
		name, none := "memory.limit_in_bytes", "9223372036854771712"
		if d.Version == 2 {
			name, none = "memory.max", "max"
		}
		expect(t, g, map[string]string{name: none})
		if err := g.ApplyLate(); err != nil {
			t.Fatal(err)
		}
		expect(t, g, map[string]string{name: "6291456"})
	})
}

func TestRefusedLimitLeavesNothing(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		_, err := d.Create(t.Context(), "", "refused", Resources{CpusetCpus: "4000"}, Devices{})
		if err == nil || !strings.Contains(err.Error(), "requested CPUs are not available - requested 4000, available: 0") {
			t.Errorf("%v", err)
		}
		for _, h := range d.hierarchies {
			if _, err := os.Stat(filepath.Join(h.dir, d.Parent(), "default/refused")); err == nil {
				t.Errorf("it was left in %s", h.dir)
			}
		}
	})
}

func TestWeights(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 512: 59, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weightOf(shares); got != want {
			t.Errorf("%d shares are weight %d, not %d", shares, got, want)
		}
	}
}

func TestAddFreezeKillRemove(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		if (g.FD() >= 0) != (d.Version == 2) {
			t.Errorf("FD %d", g.FD())
		}
		p := inside(t, g, "count")
		p.start(t)
		if list, err := g.Procs(); err != nil || !slices.Equal(list, []int{p.Process.Pid}) {
			t.Errorf("processes %v, %v", list, err)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.Process.Pid))
		if err != nil || strings.Count(string(text), d.Parent()+"/default/") != len(d.hierarchies) {
			t.Errorf("%v: not in all %d hierarchies:\n%s", err, len(d.hierarchies), text)
		}
		other, err := Open(g.Paths())
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Freeze(); err != nil {
			t.Fatal(err)
		}
		before, err := ticks(p.Process.Pid)
		time.Sleep(30 * time.Millisecond)
		after, err2 := ticks(p.Process.Pid)
		if before != after || err != nil || err2 != nil {
			t.Errorf("it ran on while frozen: %q %q", before, after)
		}
		if err := other.Thaw(); err != nil {
			t.Fatal(err)
		}
		if s, err := new(Reader).Stats(other.Paths()); err != nil || d.Version == 1 && (s.MemoryCurrent == 0 || s.CPUUsage == 0 || s.PidsCurrent == 0) || s.MemoryLimit != 0 {
			t.Errorf("stats %+v, %v", s, err)
		}
		if err := other.Freeze(); err != nil { // a frozen one can be killed too
			t.Fatal(err)
		}
		if err := other.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		if !p.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() {
			t.Errorf("ended by %v", p.ProcessState)
		}
		if err := other.Remove(); err != nil {
			t.Fatal(err)
		}
		if list, err := other.Procs(); err != nil || len(list) != 0 {
			t.Errorf("after its removal: %v, %v", list, err)
		}
		if err := errors.Join(other.Kill(), other.Remove()); err != nil {
			t.Errorf("once more: %v", err)
		}
		if _, err := new(Reader).Stats(other.Paths()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("stats after its removal: %v", err)
		}
	})
}

// ticks is the context switches that a process made.
func ticks(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "voluntary_ctxt_switches")
	return rest, err
}

// TestKillForks kills a group whose processes live only to fork.
func TestKillForks(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		p := inside(t, g, "fork")
		p.start(t)
		for range 5 {
			if _, err := p.out.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // what is killed takes a while to end
			list, err := g.Procs()
			if err == nil && !slices.ContainsFunc(list, func(pid int) bool { return !zombie(pid) }) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("alive: %v, %v", list, err)
			}
		}
	})
}

func TestNested(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		deep := filepath.Join(g.tracker(), "a", "b")
		if err := os.MkdirAll(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		p := spawn(t, "sleep")
		if err := write(deep, "cgroup.procs", fmt.Sprint(p.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		p.start(t)
		if list, err := g.Procs(); err != nil || !slices.Contains(list, p.Process.Pid) {
			t.Errorf("processes %v, %v", list, err)
		}
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
}

func TestRemoveBusy(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		p := inside(t, g, "sleep")
		p.start(t)
		if err := g.Remove(); !errors.Is(err, unix.EBUSY) {
			t.Errorf("%v", err)
		}
		time.AfterFunc(100*time.Millisecond, func() { _ = p.Process.Kill() })
		if err := g.Remove(); err != nil { // waits for the end
			t.Error(err)
		}
	})
}

func TestOOMKills(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{Memory: 16 << 20, MemorySwap: 16 << 20}, Devices{})
		if err := g.ApplyLate(); err != nil {
			t.Fatal(err)
		}
		if n, err := g.OOMKills(); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		p := inside(t, g, "memory")
		if line := p.start(t); line != "" {
			t.Errorf("it %s", line)
		}
		_ = p.Wait()
		if n, err := g.OOMKills(); n != 1 || err != nil {
			t.Errorf("%d kills, %v", n, err)
		}
	})
}

func TestPidsLimit(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{PidsLimit: 20}, Devices{})
		if err := g.ApplyLate(); err != nil {
			t.Fatal(err)
		}
		p := inside(t, g, "pids")
		p.start(t) // children print too, or the runtime dies: only the count tells
		if s, err := new(Reader).Stats(g.Paths()); err != nil || s.PidsCurrent > 20 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// TestTakeOver: a leaf that exists is taken over with the process in it, and
// v1 can rename it.
func TestTakeOver(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		p := inside(t, g, "sleep")
		p.start(t)
		err := g.Rename("renamed")
		if d.Version == 2 {
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		again, err := d.Create(t.Context(), "", "renamed", Resources{Memory: 64 << 20}, Devices{})
		if err != nil {
			t.Fatal(err)
		}
		if list, err := again.Procs(); err != nil || !slices.Equal(list, []int{p.Process.Pid}) {
			t.Errorf("processes %v, %v", list, err)
		}
	})
}

// TestRefusedTakeOver: a leaf in which something runs is its caller's when a limit is
// refused, and the refusal is all that is said.
func TestRefusedTakeOver(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		p := inside(t, g, "sleep")
		p.start(t)
		leaf := filepath.Base(g.dirs()[0])
		_, err := d.Create(t.Context(), "", leaf, Resources{CpusetCpus: "4000"}, Devices{})
		if err == nil || strings.Contains(err.Error(), "cannot remove") {
			t.Errorf("%v", err)
		}
		if list, err := g.Procs(); err != nil || len(list) != 1 {
			t.Errorf("%v, %v", list, err)
		}
		_ = p.Process.Kill()
		_ = p.Wait()
		if _, err := d.Create(t.Context(), "", leaf, Resources{CpusetCpus: "4000"}, Devices{}); err == nil {
			t.Error("no error")
		}
		for _, dir := range g.dirs() {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s was left, though nobody is inside", dir)
			}
		}
	})
}

// TestEvacuate: an engine that sits in its own parent is moved aside on v2.
func TestEvacuate(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		if d.Version != 2 {
			t.Skip("cgroup v1 has no such rule")
		}
		parent := filepath.Join(d.hierarchies[0].dir, d.Parent())
		if err := os.Mkdir(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		p := spawn(t, "sleep")
		if err := write(parent, "cgroup.procs", fmt.Sprint(p.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		g := create(t, d, Resources{Memory: 64 << 20}, Devices{})
		expect(t, g, map[string]string{"memory.max": "67108864"})
		if list, err := read(filepath.Join(parent, "engine"), "cgroup.procs"); err != nil || list != fmt.Sprint(p.Process.Pid) {
			t.Errorf("%q, %v", list, err)
		}
		_ = p.Process.Kill()
		_ = p.Wait()
		if err := rmdir(filepath.Join(parent, "engine")); err != nil {
			t.Error(err)
		}
	})
}
