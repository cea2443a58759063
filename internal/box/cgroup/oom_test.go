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
