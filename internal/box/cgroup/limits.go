package cgroup

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// smallMemory is what init could not be sure to build the container in.
const smallMemory = 32 << 20

// begin writes what init can live with, and keeps the rest for ApplyLate.
func (g *Group) begin(r Resources) error {
	now, late := r.Split()
	g.late = late
	return g.Limit(now)
}

// ApplyLate writes the limits that would have hindered init.
func (g *Group) ApplyLate() error {
	late := g.late
	g.late = Resources{}
	return g.Limit(late)
}

// Limit writes the limits that are set in r and leaves the others as they
// are. PidsLimit -1, MemorySwap -1 and CPUQuota -1 lift a limit.
func (g *Group) Limit(r Resources) error {
	if r.Empty() {
		return nil
	}
	if r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory {
		return fmt.Errorf("the limit of memory plus swap (%d bytes) is below that of memory (%d bytes)", r.MemorySwap, r.Memory)
	}
	if dir := g.v2(); dir != "" {
		return g.limitV2(dir, r)
	}
	return g.limitV1(r)
}

func (g *Group) warn(format string, args ...any) {
	w := fmt.Sprintf(format, args...)
	g.warnings = append(g.warnings, w)
	slog.Warn(w, "cgroup", g.paths["memory"]+g.paths[""])
}

// set writes value to a controller's file on v1.
func (g *Group) set(controller, name, value string) error {
	dir := g.paths[controller]
	if dir == "" {
		return fmt.Errorf("this limit cannot be set: the host has no %s cgroup controller (wanted %s of %s)", controller, value, name)
	}
	return g.write(dir, name, value)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func (g *Group) limitV1(r Resources) error {
	if err := g.memoryV1(r); err != nil {
		return err
	}
	for _, w := range []struct {
		wanted                  bool
		controller, name, value string
	}{
		{r.MemoryReservation > 0, "memory", "memory.soft_limit_in_bytes", decimal(r.MemoryReservation)},
		{r.CPUShares > 0, "cpu", "cpu.shares", strconv.FormatUint(r.CPUShares, 10)},
		{r.CpusetCpus != "", "cpuset", "cpuset.cpus", r.CpusetCpus},
		{r.CpusetMems != "", "cpuset", "cpuset.mems", r.CpusetMems},
		{r.PidsLimit != 0, "pids", "pids.max", pids(r.PidsLimit)},
	} {
		if !w.wanted || r.PidsLimit < 0 && w.controller == "pids" && g.paths["pids"] == "" {
			continue
		}
		if err := g.set(w.controller, w.name, w.value); err != nil {
			return explain(err, g.paths["cpuset"], w.name, w.value)
		}
	}
	if r.Swappiness != nil {
		if err := g.set("memory", "memory.swappiness", decimal(*r.Swappiness)); err != nil {
			return err
		}
	}
	if r.OOMKillDisable {
		if err := g.set("memory", "memory.oom_control", "1"); err != nil {
			return err
		}
	}
	if err := g.cpuV1(r); err != nil {
		return err
	}
	if err := g.realtime(r); err != nil {
		return err
	}
	if err := g.hugeV1(r.HugePages); err != nil {
		return err
	}
	return g.ioV1(r.IO)
}

// cpuV1: a quota must fit the period and the reverse, so the order depends on
// what holds now.
func (g *Group) cpuV1(r Resources) error {
	period := func() error {
		if r.CPUPeriod == 0 {
			return nil
		}
		return g.set("cpu", "cpu.cfs_period_us", strconv.FormatUint(r.CPUPeriod, 10))
	}
	quota := func() error {
		if r.CPUQuota == 0 {
			return nil
		}
		return g.set("cpu", "cpu.cfs_quota_us", decimal(max(r.CPUQuota, -1)))
	}
	err := period()
	if errors.Is(err, unix.EINVAL) && r.CPUQuota != 0 {
		if err = quota(); err == nil {
			return period()
		}
	}
	if err == nil {
		err = quota()
	}
	return err
}

const (
	memoryLimit = "memory.limit_in_bytes"
	memswLimit  = "memory.memsw.limit_in_bytes"
)

// memoryV1 writes the limit of memory and that of memory plus swap. The second
// can never be below the first, so which is first depends on what holds now.
func (g *Group) memoryV1(r Resources) error {
	swap := swapTotal(r)
	if r.Memory == 0 && swap == 0 {
		return nil
	}
	dir := g.paths["memory"]
	if swap != 0 && dir != "" && !exists(dir, memswLimit) {
		g.warn("the limit of swap is not set: this kernel does not account swap (start it with swapaccount=1)")
		swap = 0
	}
	total := func() error {
		if swap == 0 {
			return nil
		}
		return g.set("memory", memswLimit, decimal(swap))
	}
	memory := func() error {
		if r.Memory == 0 {
			return nil
		}
		err := g.set("memory", memoryLimit, decimal(r.Memory))
		if errors.Is(err, unix.EBUSY) {
			used, _ := read(dir, "memory.usage_in_bytes")
			return fmt.Errorf("the memory limit of %d bytes is too small: %s bytes are in use and cannot be freed: %w", r.Memory, used, unix.EBUSY)
		}
		return err
	}
	first, second := memory, total
	if swap != 0 && r.Memory != 0 && dir != "" {
		if text, err := read(dir, memswLimit); err == nil {
			if now, err := strconv.ParseUint(text, 10, 64); err == nil && (swap < 0 || now < uint64(swap)) {
				first, second = total, memory
			}
		}
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// swapTotal is the limit of memory plus swap, with Docker's default.
func swapTotal(r Resources) int64 {
	switch {
	case r.MemorySwap < 0:
		return -1
	case r.MemorySwap > 0:
		return r.MemorySwap
	case r.Memory > math.MaxInt64/2:
		return -1
	}
	return 2 * r.Memory
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

func pids(n int64) string {
	if n < 0 {
		return "max"
	}
	return decimal(n)
}

func (g *Group) limitV2(dir string, r Resources) error {
	switch {
	case r.Swappiness != nil:
		return errors.New("cgroup v2 has no swappiness for a group: leave out --memory-swappiness")
	case r.OOMKillDisable:
		return errors.New("cgroup v2 cannot disable the OOM killer for a group: leave out --oom-kill-disable")
	case r.RTPeriod != 0 || r.RTRuntime != 0:
		return errors.New("cgroup v2 has no real-time budget for a group: leave out --cpu-rt-period and --cpu-rt-runtime")
	}
	weight := strconv.FormatUint(weightOf(r.CPUShares), 10)
	for _, w := range []struct {
		wanted      bool
		name, value string
	}{
		{r.Memory > 0, "memory.max", decimal(r.Memory)},
		{r.MemoryReservation > 0, "memory.low", decimal(r.MemoryReservation)},
		{r.CPUShares > 0, "cpu.weight", weight},
		{r.CpusetCpus != "", "cpuset.cpus", r.CpusetCpus},
		{r.CpusetMems != "", "cpuset.mems", r.CpusetMems},
		{r.PidsLimit != 0, "pids.max", pids(r.PidsLimit)},
		{r.CPUQuota != 0 || r.CPUPeriod != 0, "cpu.max", cpuMax(r)},
	} {
		if !w.wanted {
			continue
		}
		if w.name == "memory.max" {
			if err := g.swapV2(dir, r); err != nil {
				return err
			}
		}
		if err := g.write(dir, w.name, w.value); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("this limit cannot be set: its cgroup controller is missing or not delegated to the engine: %w", err)
			}
			return explain(err, dir, w.name, w.value)
		}
	}
	if r.Memory == 0 && r.MemorySwap != 0 {
		if err := g.swapV2(dir, r); err != nil {
			return err
		}
	}
	if err := g.hugeV2(dir, r.HugePages); err != nil {
		return err
	}
	return g.ioV2(dir, r.IO)
}

// swapV2 limits swap alone, which is what v2 counts.
func (g *Group) swapV2(dir string, r Resources) error {
	total, value := swapTotal(r), "max"
	if total > 0 {
		if r.Memory == 0 {
			return errors.New("a limit of memory plus swap needs a limit of memory beside it")
		}
		value = decimal(total - r.Memory)
	}
	err := g.write(dir, "memory.swap.max", value)
	if errors.Is(err, unix.ENOENT) && exists(dir, "memory.max") {
		g.warn("the limit of swap is not set: this kernel does not account swap (start it with swapaccount=1)")
		return nil
	}
	return err
}

func cpuMax(r Resources) string {
	quota := "max"
	if r.CPUQuota > 0 {
		quota = decimal(r.CPUQuota)
	}
	if r.CPUPeriod == 0 {
		return quota
	}
	return quota + " " + strconv.FormatUint(r.CPUPeriod, 10)
}

// weightOf turns v1's shares (2 to 262144, 1024 usual) into v2's weight (1 to
// 10000, 100 usual): the curve through those three points that the OCI
// runtimes agreed on in 2025.
func weightOf(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// explain adds what the host offers to a refused cpuset.
func explain(err error, dir, name, value string) error {
	if name != "cpuset.cpus" && name != "cpuset.mems" {
		return err
	}
	offered, readErr := read(filepath.Dir(dir), name)
	if offered == "" || readErr != nil {
		offered, readErr = read(filepath.Dir(dir), name+".effective")
	}
	if readErr != nil {
		return err
	}
	what := "CPUs"
	if name == "cpuset.mems" {
		what = "memory nodes"
	}
	return fmt.Errorf("requested %s are not available - requested %s, available: %s: %w", what, value, offered, err)
}
