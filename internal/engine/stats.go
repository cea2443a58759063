package engine

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/box/cgroup"
)

// StatsOptions of GET /containers/{id}/stats.
type StatsOptions struct {
	Stream  bool
	OneShot bool // without an earlier sample, and so without waiting for one; not of a stream
}

const (
	statsInterval = time.Second
	// An earlier sample that is between these ages is good to compute a
	// processor's use from; without one it is made, and waited for.
	sampleAge    = 50 * time.Millisecond
	sampleMaxAge = 10 * time.Second
)

// Stats gives a container's counters to out: once, or each second until ctx
// ends or the container is removed. A container that does not run has empty ones.
// Each has the sample before it (PreCPUStats), the first of a stream too.
func (e *Limits) Stats(ctx context.Context, ref string, o StatsOptions, out func(*container.StatsResponse) error) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	var updates chan *container.StatsResponse
	if o.Stream {
		var leave func()
		updates, leave = e.samples.subscribe(c)
		defer leave()
	}
	if o.OneShot && !o.Stream {
		m := e.samples.measurer()
		defer e.samples.release(m)
		return out(m.full(c.latest.Load()))
	}
	list, err := e.samples.twice(ctx, []*entry{c})
	if err != nil {
		return err
	}
	last := list[0]
	for {
		if err := out(last); err != nil || !o.Stream {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case next, ok := <-updates:
			if !ok {
				return nil // removed
			}
			s := *next // others have it too
			if !last.Read.IsZero() && !s.Read.IsZero() && s.CPUStats.CPUUsage.TotalUsage >= last.CPUStats.CPUUsage.TotalUsage {
				s.PreRead, s.PreCPUStats = last.Read, last.CPUStats
			}
			last = &s
		}
	}
}

// StatsOf gives the counters of many containers at one time: those that are
// named in their order, or all that run, by name. With all, those that do not
// run too.
func (e *Limits) StatsOf(ctx context.Context, refs []string, all bool) ([]*container.StatsResponse, error) {
	var list []*entry
	for _, ref := range refs {
		c, err := e.find(ref)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if len(refs) == 0 {
		for _, c := range e.entries() {
			if r := c.latest.Load(); r.running() || all && r.State != container.StateRemoving {
				list = append(list, c)
			}
		}
		slices.SortFunc(list, func(a, b *entry) int { return b.latest.Load().Created.Compare(a.latest.Load().Created) }) // as ps
	}
	return e.samples.twice(ctx, list)
}

// measurer reads counters; one goroutine at a time uses it.
type measurer struct {
	reader cgroup.Reader
	clock  *processors
	memory uint64 // bytes of the machine
}

func emptyStats(r *record) *container.StatsResponse {
	return &container.StatsResponse{ID: r.ID, Name: "/" + r.Name, OSType: r.Platform}
}

// full reads all of a container's counters.
func (m *measurer) full(r *record) *container.StatsResponse {
	s := emptyStats(r)
	if !r.running() || len(r.Cgroups) == 0 {
		return s
	}
	c, err := m.reader.Stats(r.Cgroups)
	usage, cpus := m.clock.read()
	if err != nil { // it has just ended
		return s
	}
	s.Read = time.Now().UTC()
	s.CPUStats = container.CPUStats{
		CPUUsage:    container.CPUUsage{TotalUsage: c.CPUUsage, PercpuUsage: c.CPUs, UsageInKernelmode: c.CPUKernel, UsageInUsermode: c.CPUUser},
		SystemUsage: usage, OnlineCPUs: cpus,
		ThrottlingData: container.ThrottlingData{Periods: c.Periods, ThrottledPeriods: c.ThrottledPeriods, ThrottledTime: c.ThrottledTime},
	}
	s.MemoryStats = container.MemoryStats{Usage: c.MemoryCurrent, MaxUsage: c.MemoryMax, Stats: c.Memory, Failcnt: c.MemoryFailures, Limit: c.MemoryLimit}
	if s.MemoryStats.Limit == 0 || s.MemoryStats.Limit > m.memory {
		s.MemoryStats.Limit = m.memory
	}
	s.PidsStats = container.PidsStats{Current: c.PidsCurrent, Limit: c.PidsLimit}
	s.BlkioStats = container.BlkioStats{IoServiceBytesRecursive: blkio(c.IOBytes), IoServicedRecursive: blkio(c.IOps)}
	if !r.HostConfig.NetworkMode.IsHost() {
		s.Networks = m.networks(r.PID)
	}
	return s
}

func blkio(counts []cgroup.DeviceCount) (list []container.BlkioStatEntry) {
	for _, c := range counts {
		list = append(list, container.BlkioStatEntry{Major: c.Major, Minor: c.Minor, Op: c.Op, Value: c.Value})
	}
	return list
}

// networks counts the traffic of a process's network interfaces.
func (m *measurer) networks(pid int) map[string]container.NetworkStats {
	var all map[string]container.NetworkStats
	err := m.reader.Lines("/proc/"+strconv.Itoa(pid)+"/net", "dev", func(f []string) {
		if len(f) < 17 || f[0] == "lo:" || f[0][len(f[0])-1] != ':' {
			return
		}
		var n [16]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(f[i+1], 10, 64) // the kernel's own numbers
		}
		if all == nil {
			all = map[string]container.NetworkStats{}
		}
		all[f[0][:len(f[0])-1]] = container.NetworkStats{RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3], TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11]}
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil // the process has just ended
	}
	return all
}
