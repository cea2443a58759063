package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hezi/internal/box/cgroup"
)

func TestLacks(t *testing.T) {
	const head = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
	boot := func(option string) string {
		return "boot with the kernel option " + option + ": add it to GRUB_CMDLINE_LINUX in /etc/default/grub, then: update-grub && reboot"
	}
	all := cgroup.Support{Version: 1, Memory: true, Swap: true, OOMKillDisable: true, CPUShares: true, CPUQuota: true, Cpuset: true, Pids: true,
		IOWeight: true, IOWeightDevice: true, ReadBps: true, WriteBps: true, ReadIOps: true, WriteIOps: true}
	for _, c := range []struct {
		name        string
		change      func(*cgroup.Support)
		controllers string
		want        []string
	}{
		{"nothing", func(*cgroup.Support) {}, "", nil},
		{"memory is off", func(s *cgroup.Support) { s.Memory = false }, head + "memory\t0\t1\t0\n", []string{"No memory limit support: " + boot("cgroup_enable=memory")}},
		{"swap is off", func(s *cgroup.Support) { s.Swap = false }, "", []string{"No swap limit support: " + boot("swapaccount=1")}},
		{"pids is not mounted", func(s *cgroup.Support) { s.Pids = false }, head + "pids\t0\t1\t1\n",
			[]string{"No pids limit support: mkdir -p /sys/fs/cgroup/pids && mount -t cgroup -o pids cgroup /sys/fs/cgroup/pids, then restart hezid"}},
		{"v1 holds pids", func(s *cgroup.Support) { s.Version, s.Pids = 2, false }, head + "pids\t3\t1\t1\n",
			[]string{"No pids limit support: the controller is in cgroup v1: " + boot("cgroup_no_v1=all")}},
		{"cpu has no quota", func(s *cgroup.Support) { s.CPUQuota = false }, head + "cpu\t3\t1\t1\n",
			[]string{"No cpu cfs quota support: " + distributions, "No cpu cfs period support: " + distributions}},
		{"no throttling on v1", func(s *cgroup.Support) { s.ReadBps, s.WriteIOps = false, false }, head + "cpu\t3\t1\t1\n",
			[]string{"No blkio throttle.read_bps_device support: " + distributions, "No blkio throttle.write_iops_device support: " + distributions}},
		{"no weights and throttling on v2", func(s *cgroup.Support) { s.Version, s.IOWeight, s.WriteBps = 2, false, false }, head + "blkio\t0\t1\t0\n",
			[]string{"No io.weight support: modprobe bfq, then for each disk: echo bfq > /sys/block/DISK/queue/scheduler", "No io.max (wbps) support: " + boot("cgroup_enable=blkio")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cgroups")
			if err := os.WriteFile(path, []byte(c.controllers), 0o600); err != nil {
				t.Fatal(err)
			}
			s := all
			c.change(&s)
			if got := lacks(s, path); strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}
