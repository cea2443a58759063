package format

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

func TestStats(t *testing.T) {
	s := &container.StatsResponse{ID: "0123456789abcdef", Name: "/n", Read: time.Unix(9, 0)}
	s.CPUStats.CPUUsage.TotalUsage, s.CPUStats.SystemUsage, s.CPUStats.OnlineCPUs = 3e8, 4e9, 4
	s.MemoryStats = container.MemoryStats{Usage: 30 << 20, Limit: 100 << 20, Stats: map[string]uint64{"total_inactive_file": 10 << 20}}
	s.Networks = map[string]container.NetworkStats{"eth0": {RxBytes: 1500, TxBytes: 2}, "eth1": {RxBytes: 500}}
	s.BlkioStats.IoServiceBytesRecursive = []container.BlkioStatEntry{{Op: "Read", Value: 7}, {Op: "write", Value: 8}, {Op: "Sync", Value: 9}}
	row := Stats("n", s, true)
	if got := row.CPUPerc(); got != "--" {
		t.Errorf("without a sample before, the processor's use is %s", got)
	}
	s.PreCPUStats.CPUUsage.TotalUsage, s.PreCPUStats.SystemUsage = 1e8, 2e9
	for want, got := range map[string]string{"40.00%": row.CPUPerc(), "20MiB / 100MiB": row.MemUsage(), "20.00%": row.MemPerc(), "2kB / 2B": row.NetIO(), "7B / 8B": row.BlockIO(), "0123456789ab": row.ID(), "n": row.Name()} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	s.MemoryStats.Stats = map[string]uint64{"inactive_file": 5 << 20} // cgroup v2
	if got := row.MemUsage(); got != "25MiB / 100MiB" {
		t.Errorf("on cgroup v2 the memory is %s", got)
	}
	off := Stats("n", &container.StatsResponse{ID: "1", Name: "/off"}, false)
	for _, got := range []string{off.CPUPerc(), off.MemPerc(), off.NetIO(), off.BlockIO(), off.PIDs()} {
		if got != "--" {
			t.Errorf("a container that does not run has %s", got)
		}
	}
}
