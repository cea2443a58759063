package cgroup

import (
	"testing"
	"time"
)

func TestWatcher(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		told := make(chan OOM, 16)
		w := NewWatcher(func(o OOM) { told <- o })
		defer w.Close()
		small := Resources{Memory: 16 << 20, MemorySwap: 16 << 20}
		watched, unwatched := create(t, d, small, Devices{}), create(t, d, small, Devices{})
		for _, g := range []*Group{watched, unwatched} {
			if err := g.ApplyLate(); err != nil {
				t.Fatal(err)
			}
		}
		for id, g := range map[string]*Group{"a": watched, "b": unwatched} {
			if err := w.Add(id, g.Paths(), 0); err != nil {
				t.Fatal(err)
			}
		}
		w.Remove("b")
		for n := range uint64(3) {
			for _, g := range []*Group{unwatched, watched} {
				p := inside(t, g, "memory")
				p.start(t)
				_ = p.Wait()
			}
			select {
			case o := <-told:
				if o != (OOM{"a", n + 1}) {
					t.Errorf("told %+v for kill %d", o, n+1)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("nothing was told of a kill")
			}
		}
	})
}

func TestProbe(t *testing.T) {
	s, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
	each(t, true, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		for name, x := range map[string]struct {
			said bool
			r    Resources
		}{
			"memory": {s.Memory, Resources{Memory: 64 << 20}}, "reservation": {s.Reservation, Resources{MemoryReservation: 33 << 20}},
			"shares": {s.CPUShares, Resources{CPUShares: 512}}, "quota": {s.CPUQuota, Resources{CPUQuota: 50000}},
			"cpuset": {s.Cpuset, Resources{CpusetCpus: "0"}}, "pids": {s.Pids, Resources{PidsLimit: 20}},
			"OOM": {s.OOMKillDisable, Resources{OOMKillDisable: true}}, "realtime": {s.Realtime, Resources{RTRuntime: 1000}},
			"read": {s.ReadBps, Resources{IO: &IO{ReadBps: with(disk(t), 1<<20)}}},
		} {
			if err := g.Update(x.r); x.said != (err == nil) {
				t.Errorf("%s: the host's support is said to be %v, and the kernel answers %v", name, x.said, err)
			}
		}
		if swap := "memory.swap.max"; d.Version == 2 && s.Swap != exists(g.v2(), swap) || d.Version == 1 && s.Swap != exists(g.paths["memory"], memswLimit) {
			t.Errorf("swap: %v", s.Swap)
		}
	})
}

// TestWatcherOfScopes: systemd removes a scope with its count of kills before
// anyone has read it; the slice's count above is still there.
func TestWatcherOfScopes(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		if d.Version != 2 {
			t.Skip("on cgroup v1 the count of the group above does not have it")
		}
		w := NewWatcher(func(OOM) {})
		defer w.Close()
		begin := func(id string) *Group {
			t.Helper()
			g, err := d.Create(t.Context(), "", ScopeName(id), Resources{Memory: 16 << 20, MemorySwap: 16 << 20}, Devices{})
			if err == nil {
				err = g.ApplyLate()
			}
			if err == nil {
				err = w.Add(id, g.Paths(), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		// A group ends while nobody reads.
		end := func(g *Group, killed bool) {
			t.Helper()
			p := inside(t, g, map[bool]string{true: "memory", false: "pids"}[killed])
			w.mu.Lock()
			p.start(t)
			_ = p.Process.Kill()
			_ = p.Wait()
			err := g.Kill()
			if err == nil {
				err = g.Remove()
			}
			w.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			killed, beside, ended := begin("killed"), begin("beside"), begin("ended")
			end(ended, false)
			if w.Remove("ended") {
				t.Error("one that was not out of memory is told to have been")
			}
			end(killed, true)
			if !w.Remove("killed") {
				t.Error("a kill was lost with its group")
			}
			end(beside, false)
			if w.Remove("beside") {
				t.Error("the kill of one is told of another")
			}
		}
		// One that is read explains the slice's count.
		read, after := begin("read"), begin("after")
		p := inside(t, read, "memory")
		p.start(t)
		_ = p.Wait()
		if w.Remove("read") {
			t.Error("a count that can be read is said to be lost")
		}
		if err := read.Remove(); err != nil {
			t.Error(err)
		}
		end(after, false)
		if w.Remove("after") {
			t.Error("a kill that was read is told of another")
		}
	})
}

// TestWatcherOfRemovedGroups: systemd removes a v1 group with its count of kills
// before anyone has read it; the signals say what it was.
func TestWatcherOfRemovedGroups(t *testing.T) {
	each(t, true, func(t *testing.T, d *Driver) {
		if d.Version != 1 {
			t.Skip("on cgroup v2 the count of the group above has it")
		}
		w := NewWatcher(func(OOM) {})
		defer w.Close()
		for name, x := range map[string]struct {
			mode string
			stop bool          // nobody reads while it ends
			late time.Duration // until it is asked
			want bool
		}{
			"killed, seen late":             {"memory", true, 0, true},
			"killed, seen very late":        {"memory", true, 300 * time.Millisecond, true},
			"killed, seen":                  {"memory", false, 0, true},
			"not killed":                    {"nothing", true, 0, false},
			"not killed, seen after it all": {"nothing", true, 300 * time.Millisecond, false},
		} {
			g := create(t, d, Resources{Memory: 16 << 20, MemorySwap: 16 << 20}, Devices{})
			if err := g.ApplyLate(); err != nil {
				t.Fatal(err)
			}
			if err := w.Add(name, g.Paths(), 0); err != nil {
				t.Fatal(err)
			}
			if x.stop {
				w.mu.Lock()
			}
			p := inside(t, g, x.mode)
			p.start(t)
			_ = p.Wait()
			err := g.Remove()
			time.Sleep(x.late)
			if x.stop {
				w.mu.Unlock()
			}
			if err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			told := w.groups[name].kills > 0 // in time
			w.mu.Unlock()
			if got := w.Remove(name) || told; got != x.want {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
}
