package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a whole disk of this machine, of the kernel's list.
func disk(t *testing.T) DeviceLimit {
	t.Helper()
	files, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(files) == 0 {
		t.Skip("this machine has no block device")
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	major, minor, ok := device(strings.TrimSpace(string(text)))
	if !ok {
		t.Fatalf("%s has %q", files[0], text)
	}
	return DeviceLimit{Major: uint32(major), Minor: uint32(minor)}
}

func with(d DeviceLimit, value uint64) []DeviceLimit {
	d.Value = value
	return []DeviceLimit{d}
}

func TestDeviceLimits(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		dev := disk(t)
		g := create(t, d, Resources{IO: &IO{ReadBps: with(dev, 1<<20), WriteIOps: with(dev, 300)}}, Devices{})
		if err := g.ApplyLate(); err != nil {
			t.Fatal(err)
		}
		key := dev.device()
		if d.Version == 2 {
			expect(t, g, map[string]string{"io.max": key + " rbps=1048576 wbps=max riops=max wiops=300"})
		} else {
			expect(t, g, map[string]string{"blkio.throttle.read_bps_device": key + " 1048576", "blkio.throttle.write_iops_device": key + " 300"})
		}
		if err := g.Update(Resources{IO: &IO{ReadBps: with(dev, 0), WriteIOps: with(dev, 500)}}); err != nil {
			t.Fatal(err)
		}
		if d.Version == 2 {
			expect(t, g, map[string]string{"io.max": key + " rbps=max wbps=max riops=max wiops=500"})
		} else {
			expect(t, g, map[string]string{"blkio.throttle.read_bps_device": "", "blkio.throttle.write_iops_device": key + " 500"})
		}
		// A device that is none is refused, and what was written before it is put back.
		err := g.Update(Resources{PidsLimit: 33, CPUShares: 512, IO: &IO{WriteIOps: append(with(dev, 7), DeviceLimit{Major: 4000, Value: 9})}})
		if err == nil || !strings.Contains(err.Error(), "4000:0 cannot be limited") {
			t.Errorf("%v", err)
		}
		if d.Version == 2 {
			expect(t, g, map[string]string{"io.max": key + " rbps=max wbps=max riops=max wiops=500", "pids.max": "max", "cpu.weight": "100"})
		} else {
			expect(t, g, map[string]string{"blkio.throttle.write_iops_device": key + " 500", "pids.max": "max", "cpu.shares": "1024"})
		}
	})
}

func TestWeightOfDevices(t *testing.T) {
	support, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		err := g.Update(Resources{IO: &IO{Weight: 250}})
		if support.IOWeight != (err == nil) {
			t.Errorf("the host's support is %v, and the weight %v", support.IOWeight, err)
		}
		if err == nil && d.Version == 1 && exists(g.paths["blkio"], "blkio.bfq.weight") {
			expect(t, g, map[string]string{"blkio.bfq.weight": "250"})
		}
	})
}

func TestIOWeights(t *testing.T) {
	for w, want := range map[uint64]uint64{0: 0, 10: 1, 500: 4950, 1000: 10000} {
		if got := ioWeight(w); got != want {
			t.Errorf("%d: %d, not %d", w, got, want)
		}
	}
}

func TestV1Only(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		zero := int64(7)
		err := g.Update(Resources{Swappiness: &zero, OOMKillDisable: true})
		if d.Version == 2 {
			if err == nil {
				t.Error("v2 took what it does not have")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		expect(t, g, map[string]string{"memory.swappiness": "7"})
		if text, err := read(g.paths["memory"], "memory.oom_control"); err != nil || field(text, "oom_kill_disable") != 1 {
			t.Errorf("%q, %v", text, err)
		}
	})
}

func TestRealtime(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		err := g.Update(Resources{RTRuntime: 20000, RTPeriod: 500000})
		if d.Version == 2 || !exists(g.paths["cpu"], rtRuntime) {
			if err == nil {
				t.Error("a host without real-time groups took a budget")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		expect(t, g, map[string]string{rtPeriod: "500000", rtRuntime: "20000"})
		second := create(t, d, Resources{RTRuntime: 100000, RTPeriod: 1000000}, Devices{})
		expect(t, second, map[string]string{rtRuntime: "100000"})
		if _, err := d.Create(t.Context(), "", "greedy", Resources{RTRuntime: 950000, RTPeriod: 1000000}, Devices{}); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "real-time budget") {
			t.Errorf("%v", err)
		}
	})
}

// TestRealtimeAfterAnother: a group that was removed keeps its budget for a moment, in
// which the kernel refuses another what seems to be free.
func TestRealtimeAfterAnother(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		if d.Version == 2 || !exists(d.hierarchies[0].dir, "cgroup.procs") || !create(t, d, Resources{}, Devices{}).hasRealtime() {
			t.Skip("only cgroup v1 has real-time budgets, in a kernel with CONFIG_RT_GROUP_SCHED")
		}
		for range 5 {
			g, err := d.Create(t.Context(), "", "budget", Resources{RTRuntime: 100000}, Devices{})
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Remove(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func (g *Group) hasRealtime() bool { return exists(g.paths["cpu"], rtRuntime) }

func TestForeignParent(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		parent := "/test-foreign-" + d.identity + "/default"
		g, err := d.CreateIn(t.Context(), parent, "leaf", Resources{}, Devices{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for _, h := range d.hierarchies {
				if err := errors.Join(rmdir(filepath.Join(h.dir, parent)), rmdir(filepath.Dir(filepath.Join(h.dir, parent)))); err != nil {
					t.Error(err)
				}
			}
		})
		for _, dir := range g.dirs() {
			if !strings.HasSuffix(dir, parent+"/leaf") {
				t.Errorf("it is in %s", dir)
			}
		}
		if dir := g.paths["devices"]; dir != "" {
			text, err := read(dir, "devices.list")
			if err != nil || strings.Contains(text, "a *:* rwm") || !strings.Contains(text, "c 1:3 rwm") {
				t.Errorf("its device rules are %q (%v)", text, err)
			}
			if text, err := read(filepath.Dir(dir), "devices.list"); err != nil || text != "a *:* rwm" {
				t.Errorf("its parent's device rules became %q (%v)", text, err)
			}
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		for _, in := range []string{d.Parent(), d.Parent() + "/default", d.Parent() + "/own"} {
			if _, err := d.CreateIn(t.Context(), in, "leaf", Resources{}, Devices{}); err == nil {
				t.Errorf("the engine's own %s was taken as a parent", in)
			}
		}
	})
}
