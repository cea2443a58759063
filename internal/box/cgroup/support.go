package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Support says which limits this host can enforce.
type Support struct {
	Version int // 1 or 2; hybrid hosts are 1

	Memory, Swap, Reservation  bool
	Swappiness, OOMKillDisable bool
	CPUShares, CPUQuota        bool
	Realtime                   bool
	Cpuset, Pids               bool

	IOWeight, IOWeightDevice               bool
	ReadBps, WriteBps, ReadIOps, WriteIOps bool
	// WeightIdle: weights are taken and have no effect, since no disk has a
	// scheduler that heeds them.
	WeightIdle bool
	// HugePages: their use can be limited; HugePageSizes are the host's, as the
	// kernel writes them.
	HugePages     bool
	HugePageSizes []string
}

// Probe finds out what the kernel offers. It only reads.
func Probe() (Support, error) {
	version, list, err := detect("/proc/self/mountinfo")
	if err != nil {
		return Support{}, err
	}
	p := prober{list: list, blocks: "/sys/block", pools: "/sys/kernel/mm/hugepages", swaps: "/proc/swaps", self: "/proc/self/cgroup"}
	if version == 2 {
		return p.v2(), nil
	}
	return p.v1(), nil
}

type prober struct {
	list                       []hierarchy
	blocks, pools, swaps, self string
}

func (p prober) dir(controller string) string {
	for _, h := range p.list {
		if h.has(controller) {
			return h.dir
		}
	}
	return ""
}

func (p prober) v1() Support {
	has := func(controller, name string) bool {
		dir := p.dir(controller)
		return dir != "" && exists(dir, name)
	}
	s := Support{
		Version: 1,
		Memory:  p.dir("memory") != "", Swap: has("memory", memswLimit), Reservation: has("memory", "memory.soft_limit_in_bytes"),
		Swappiness: has("memory", "memory.swappiness"), OOMKillDisable: has("memory", "memory.oom_control"),
		CPUShares: has("cpu", "cpu.shares"), CPUQuota: has("cpu", "cpu.cfs_quota_us"), Realtime: has("cpu", rtRuntime),
		Cpuset: p.dir("cpuset") != "", Pids: p.dir("pids") != "",
		ReadBps: has("blkio", "blkio.throttle.read_bps_device"), WriteBps: has("blkio", "blkio.throttle.write_bps_device"),
		ReadIOps: has("blkio", "blkio.throttle.read_iops_device"), WriteIOps: has("blkio", "blkio.throttle.write_iops_device"),
	}
	s.HugePages, s.HugePageSizes = p.dir(hugetlb) != "", pageSizes(p.pools)
	// BFQ's weights are not in the root, CFQ's are.
	bfq := has("blkio", "blkio.bfq.io_service_bytes")
	s.IOWeight, s.IOWeightDevice = bfq || has("blkio", "blkio.weight"), bfq || has("blkio", "blkio.weight_device")
	s.WeightIdle = bfq && !p.scheduled("[bfq]")
	return s
}

func (p prober) v2() Support {
	root := p.dir("")
	text, err := read(root, "cgroup.controllers")
	if err != nil {
		return Support{Version: 2}
	}
	has := func(c string) bool { return word(text, c) }
	s := Support{Version: 2, Memory: has("memory"), Reservation: has("memory"), CPUShares: has("cpu"), CPUQuota: has("cpu"), Cpuset: has("cpuset"), Pids: has("pids")}
	s.Swap = s.Memory && p.below(root, "memory.max", "memory.swap.max", exists("/", p.swaps))
	s.HugePages, s.HugePageSizes = has(hugetlb), pageSizes(p.pools)
	if !has("io") {
		return s
	}
	cost := exists(root, "io.cost.qos")
	throttle := p.below(root, "io.stat", "io.max", true)
	s.ReadBps, s.WriteBps, s.ReadIOps, s.WriteIOps = throttle, throttle, throttle, throttle
	s.IOWeight = p.below(root, "io.stat", "io.weight", cost) || p.below(root, "io.stat", "io.bfq.weight", p.scheduled("bfq"))
	s.IOWeightDevice = s.IOWeight
	if s.IOWeight && !p.scheduled("[bfq]") {
		qos, err := read(root, "io.cost.qos")
		s.WeightIdle = err != nil || !strings.Contains(qos, "enable=1")
	}
	return s
}

// below looks for a file that the root of v2 does not have in a group that has
// the controller, as the file mark shows; without such a group it is guessed.
func (p prober) below(root, mark, name string, guess bool) bool {
	groups := children(root)
	if text, err := os.ReadFile(p.self); err == nil {
		if _, own, ok := strings.Cut(string(text), "0::"); ok {
			groups = append(groups, filepath.Join(root, strings.TrimSpace(own)))
		}
	}
	for _, g := range groups {
		if g != root && exists(g, mark) {
			return exists(g, name)
		}
	}
	return guess
}

// scheduled says whether a disk's list of schedulers has the word; the one in
// use is in brackets.
func (p prober) scheduled(scheduler string) bool {
	files, err := filepath.Glob(filepath.Join(p.blocks, "*/queue/scheduler"))
	return err == nil && slices.ContainsFunc(files, func(f string) bool {
		text, err := os.ReadFile(f)
		return err == nil && slices.ContainsFunc(strings.Fields(string(text)), func(w string) bool {
			return w == scheduler || strings.Trim(w, "[]") == scheduler
		})
	})
}
