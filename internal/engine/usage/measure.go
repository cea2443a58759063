package usage

import (
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
)

// measurer reads counters; one goroutine at a time uses it.
type measurer struct {
	reader cgroup.Reader
	clock  *processors
	memory uint64 // bytes of the machine
}

func empty(r *Run) *container.StatsResponse {
	return &container.StatsResponse{ID: r.ID, Name: "/" + r.Name, OSType: "linux"}
}

// full reads all of a container's counters.
func (m *measurer) full(r *Run) *container.StatsResponse {
	s := empty(r)
	if !r.running() {
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
	if !r.HostNetwork {
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
	if err != nil {
		return nil // the process has just ended
	}
	return all
}

// machineMemory in bytes.
func machineMemory() uint64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return uint64(si.Totalram) * uint64(si.Unit)
}

// processors reads only the time on processors; zero: the container has ended.
func (m *measurer) processors(r *Run) (s sample) {
	if !r.running() {
		return s
	}
	usage, err := m.reader.CPUUsage(r.Cgroups)
	if err != nil {
		return s
	}
	s.at, s.pid = time.Now().UTC(), r.PID
	s.cpu.CPUUsage.TotalUsage = usage
	s.cpu.SystemUsage, s.cpu.OnlineCPUs = m.clock.read()
	return s
}
