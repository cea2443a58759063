package daemon

import (
	"fmt"
	"os"
	"strings"

	"hezi/internal/box/cgroup"
)

// distributions is what mends a kernel that was built without something.
const distributions = "the kernel was built without it: run your distribution's own (Debian: apt install linux-image-$(dpkg --print-architecture), then reboot)"

// lacks says in Docker's words which limits this host cannot enforce, and what mends
// each. controllers is the path of /proc/cgroups (cgroups(7)).
func lacks(g cgroup.Support, controllers string) (list []string) {
	v2 := g.Version == 2
	io, read, write := "blkio", "No blkio throttle.read_%s_device support", "No blkio throttle.write_%s_device support"
	if v2 {
		io, read, write = "io", "No io.max (r%s) support", "No io.max (w%s) support"
	}
	controller := func(name string) string { return controllerRemedy(name, v2, controllers) }
	for _, w := range []struct {
		missing      bool
		text, remedy string
	}{
		{!g.Memory, "No memory limit support", controller("memory")},
		{g.Memory && !g.Swap, "No swap limit support", bootOption("swapaccount=1")},
		{!g.OOMKillDisable && !v2, "No oom kill disable support", controller("memory")},
		{!g.CPUQuota, "No cpu cfs quota support", controller("cpu")},
		{!g.CPUQuota, "No cpu cfs period support", controller("cpu")},
		{!g.CPUShares, "No cpu shares support", controller("cpu")},
		{!g.Cpuset, "No cpuset support", controller("cpuset")},
		{!g.Pids, "No pids limit support", controller("pids")},
		{!g.IOWeight && v2, "No io.weight support", "modprobe bfq, then for each disk: echo bfq > /sys/block/DISK/queue/scheduler"},
		{!g.IOWeightDevice && v2, "No io.weight (per device) support", "the same mends it"},
		{!g.ReadBps, fmt.Sprintf(read, "bps"), controller(io)}, {!g.WriteBps, fmt.Sprintf(write, "bps"), controller(io)},
		{!g.ReadIOps, fmt.Sprintf(read, "iops"), controller(io)}, {!g.WriteIOps, fmt.Sprintf(write, "iops"), controller(io)},
	} {
		if w.missing {
			list = append(list, w.text+": "+w.remedy)
		}
	}
	return list
}

// controllerRemedy is what mends that a cgroup controller, or a part of it, is missing.
func controllerRemedy(name string, v2 bool, controllers string) string {
	listed := name
	if name == "io" {
		listed = "blkio"
	}
	text, err := os.ReadFile(controllers)
	if err != nil {
		return distributions
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // subsys_name hierarchy num_cgroups enabled
		if len(fields) != 4 || fields[0] != listed {
			continue
		}
		switch {
		case fields[3] == "0":
			return bootOption("cgroup_enable=" + listed)
		case v2 && fields[1] != "0":
			return "the controller is in cgroup v1: " + bootOption("cgroup_no_v1=all")
		case !v2 && fields[1] == "0":
			return fmt.Sprintf("mkdir -p /sys/fs/cgroup/%[1]s && mount -t cgroup -o %[1]s cgroup /sys/fs/cgroup/%[1]s, then restart hezid", listed)
		}
	}
	return distributions
}

func bootOption(option string) string {
	return "boot with the kernel option " + option + ": add it to GRUB_CMDLINE_LINUX in /etc/default/grub, then: update-grub && reboot"
}
