package spec

import (
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

const (
	minMemory = 6 << 20
	minCPUs   = 1e7 // the kernel's least share of a period
)

// CheckLimits holds the limits against what any kernel takes, in Docker's
// words. update: they change a container that has limits already.
func CheckLimits(r *container.Resources, update bool) error {
	if err := checkMemory(r, update); err != nil {
		return err
	}
	cpus := runtime.NumCPU()
	switch {
	case r.CPUShares < 0 || r.CPUPeriod < 0 || r.CPURealtimePeriod < 0 || r.CPURealtimeRuntime < 0:
		return invalid("limits of processors must not be negative")
	case r.NanoCPUs < 0 || r.NanoCPUs > 0 && r.NanoCPUs < minCPUs || r.NanoCPUs > int64(cpus)*1e9:
		return invalid("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set: use --cpus alone")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set: use --cpus alone")
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1_000_000):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPURealtimePeriod > 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return invalid("cpu real-time runtime cannot be higher than cpu real-time period")
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return invalid("Range of blkio weight is from 10 to 1000")
	case r.IOMaximumBandwidth != 0 || r.IOMaximumIOps != 0:
		return invalid("Invalid QoS settings: %s does not support Maximum IO Bandwidth or Maximum IO IOps", runtime.GOOS)
	case r.CPUPercent < 0:
		return invalid("CPU percent must not be negative")
	}
	for _, d := range r.BlkioWeightDevice {
		if d == nil || d.Weight != 0 && (d.Weight < 10 || d.Weight > 1000) {
			return invalid("Range of blkio weight is from 10 to 1000, for a device too")
		}
	}
	for _, list := range [][]*blkiodev.ThrottleDevice{r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps, r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps} {
		for _, d := range list {
			if d == nil {
				return invalid("a limit of a block device needs its Path and Rate")
			}
		}
	}
	if r.CgroupParent != "" {
		if err := cgroup.CheckParent(r.CgroupParent); err != nil {
			return invalid("%v", err)
		}
	}
	return checkUlimits(r)
}

func checkMemory(r *container.Resources, update bool) error {
	switch {
	case r.Memory < 0 || r.MemoryReservation < 0:
		return invalid("limits of memory must not be negative")
	case r.Memory != 0 && r.Memory < minMemory:
		return invalid("Minimum memory limit allowed is 6MB")
	case r.MemorySwap > 0 && r.Memory == 0 && !update:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return invalid("Invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation != 0 && r.MemoryReservation < minMemory:
		return invalid("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.Memory < r.MemoryReservation:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	return nil
}

func checkUlimits(r *container.Resources) error {
	for _, u := range r.Ulimits {
		if u == nil {
			return invalid("a ulimit needs its Name, Soft and Hard")
		}
		if _, err := u.GetRlimit(); err != nil {
			return invalid("%v: see getrlimit(2) for the names", err)
		}
		if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
			return invalid("ulimit soft limit must be less than or equal to hard limit: soft: %d, hard: %d", u.Soft, u.Hard)
		}
	}
	return nil
}

// Enforce holds the limits against what this host can enforce. What Docker
// discards with a warning is taken out of r with Docker's words; what it does
// not warn of and the host cannot do is an error.
func Enforce(r *container.Resources, host cgroup.Support) (warnings []string, _ error) {
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 { // the client's word for none
		r.MemorySwappiness = nil
	}
	discard := func(set, supported bool, warning string, drop func()) {
		if set && !supported {
			drop()
			warnings = append(warnings, warning)
		}
	}
	discard(r.Memory > 0, host.Memory, "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
		func() { r.Memory, r.MemorySwap = 0, -1 })
	discard(r.Memory > 0 && r.MemorySwap != -1, host.Swap, "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
		func() { r.MemorySwap = -1 })
	discard(r.MemorySwappiness != nil, host.Swappiness, "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
		func() { r.MemorySwappiness = nil })
	discard(r.MemoryReservation > 0, host.Reservation, "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
		func() { r.MemoryReservation = 0 })
	wanted := r.OomKillDisable != nil && *r.OomKillDisable
	if r.OomKillDisable != nil && !wanted && !host.OOMKillDisable {
		r.OomKillDisable = nil
	}
	discard(wanted, host.OOMKillDisable, "Your kernel does not support OomKillDisable. OomKillDisable discarded.", func() { r.OomKillDisable = nil })
	if wanted && host.OOMKillDisable && r.Memory == 0 {
		warnings = append(warnings, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	discard(r.PidsLimit != nil && *r.PidsLimit > 0, host.Pids, "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
		func() { r.PidsLimit = nil })
	switch {
	case r.NanoCPUs > 0 && !host.CPUQuota:
		return warnings, invalid("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	case (r.CPURealtimePeriod > 0 || r.CPURealtimeRuntime > 0) && !host.Realtime:
		return warnings, invalid("the CPU real-time period and runtime can not be set, as your kernel does not support real-time scheduling of groups (CONFIG_RT_GROUP_SCHED, on cgroup v1 only) or the cgroup is not mounted: leave out --cpu-rt-period and --cpu-rt-runtime")
	}
	discard(r.CPUShares > 0, host.CPUShares, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.", func() { r.CPUShares = 0 })
	discard(r.CPUPeriod != 0 || r.CPUQuota != 0, host.CPUQuota, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
		func() { r.CPUPeriod, r.CPUQuota = 0, 0 })
	discard(r.CPUPercent > 0, false, runtime.GOOS+" does not support CPU percent. Percent discarded.", func() { r.CPUPercent = 0 })
	discard(r.CpusetCpus != "" || r.CpusetMems != "", host.Cpuset, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
		func() { r.CpusetCpus, r.CpusetMems = "", "" })
	return append(warnings, enforceIO(r, host)...), nil
}

func enforceIO(r *container.Resources, host cgroup.Support) (warnings []string) {
	for _, x := range []struct {
		set, supported bool
		warning        string
		drop           func()
	}{
		{r.BlkioWeight > 0, host.IOWeight, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.", func() { r.BlkioWeight = 0 }},
		{len(r.BlkioWeightDevice) > 0, host.IOWeightDevice, "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.", func() { r.BlkioWeightDevice = nil }},
		{len(r.BlkioDeviceReadBps) > 0, host.ReadBps, "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.", func() { r.BlkioDeviceReadBps = nil }},
		{len(r.BlkioDeviceWriteBps) > 0, host.WriteBps, "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.", func() { r.BlkioDeviceWriteBps = nil }},
		{len(r.BlkioDeviceReadIOps) > 0, host.ReadIOps, "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.", func() { r.BlkioDeviceReadIOps = nil }},
		{len(r.BlkioDeviceWriteIOps) > 0, host.WriteIOps, "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.", func() { r.BlkioDeviceWriteIOps = nil }},
	} {
		if x.set && !x.supported {
			x.drop()
			warnings = append(warnings, x.warning)
		}
	}
	if host.WeightIdle && (r.BlkioWeight > 0 || len(r.BlkioWeightDevice) > 0) {
		warnings = append(warnings, "No disk of this host has an I/O scheduler that heeds weights, so the Block I/O weight has no effect until one has: echo bfq >/sys/block/DISK/queue/scheduler")
	}
	return warnings
}

// Resources are the limits of a container's box. Block devices are looked up
// by their paths on the host.
func Resources(r *container.Resources) (box.Resources, error) {
	out := box.Resources{Memory: r.Memory, MemorySwap: r.MemorySwap, MemoryReservation: r.MemoryReservation, CPUQuota: r.CPUQuota,
		CPUPeriod: uint64(r.CPUPeriod), CPUShares: uint64(r.CPUShares), CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
		RTPeriod: uint64(r.CPURealtimePeriod), RTRuntime: r.CPURealtimeRuntime, OOMKillDisable: r.OomKillDisable != nil && *r.OomKillDisable}
	if r.NanoCPUs > 0 {
		out.CPUPeriod = 100_000
		out.CPUQuota = r.NanoCPUs / 10_000
	}
	if r.PidsLimit != nil {
		out.PidsLimit = *r.PidsLimit
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		out.Swappiness = r.MemorySwappiness
	}
	var err error
	out.IO, err = deviceLimits(r)
	return out, err
}

// deviceLimits is nil when there are none.
func deviceLimits(r *container.Resources) (*cgroup.IO, error) {
	io := &cgroup.IO{Weight: r.BlkioWeight}
	for _, d := range r.BlkioWeightDevice {
		limit, err := deviceLimit(d.Path, uint64(d.Weight))
		if err != nil {
			return nil, err
		}
		io.WeightDevice = append(io.WeightDevice, limit)
	}
	some := io.Weight != 0 || len(io.WeightDevice) > 0
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]cgroup.DeviceLimit
	}{{r.BlkioDeviceReadBps, &io.ReadBps}, {r.BlkioDeviceWriteBps, &io.WriteBps}, {r.BlkioDeviceReadIOps, &io.ReadIOps}, {r.BlkioDeviceWriteIOps, &io.WriteIOps}} {
		for _, d := range t.from {
			limit, err := deviceLimit(d.Path, d.Rate)
			if err != nil {
				return nil, err
			}
			*t.to = append(*t.to, limit)
			some = true
		}
	}
	if !some {
		return nil, nil
	}
	return io, nil
}

func deviceLimit(path string, value uint64) (cgroup.DeviceLimit, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return cgroup.DeviceLimit{}, errdefs.ErrInvalidArgument.WithMessage((&os.PathError{Op: "stat", Path: path, Err: err}).Error() + ": the limit of a block device needs its path on the host")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return cgroup.DeviceLimit{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not a block device: its reads and writes cannot be limited", path))
	}
	return cgroup.DeviceLimit{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), Value: value}, nil
}
