package spec

import (
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
)

// Fixed names what of an update's resources cannot change in a container that
// exists, and Docker's engine passes over.
func Fixed(r *container.Resources) string {
	var names []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"CgroupParent", r.CgroupParent != ""}, {"Devices", len(r.Devices) > 0}, {"DeviceCgroupRules", len(r.DeviceCgroupRules) > 0},
		{"DeviceRequests", len(r.DeviceRequests) > 0}, {"MemorySwappiness", r.MemorySwappiness != nil && *r.MemorySwappiness != -1},
		{"OomKillDisable", r.OomKillDisable != nil && *r.OomKillDisable}, {"Ulimits", len(r.Ulimits) > 0}, {"CpuCount", r.CPUCount != 0},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ", ")
}

// Updated are the limits old with what q changes: what is not set stays.
// Conflicts have Docker's words.
func Updated(old, q container.Resources) (container.Resources, error) {
	conflict := func(text string) (container.Resources, error) { return old, errdefs.ErrConflict.WithMessage(text) }
	switch {
	case q.NanoCPUs > 0 && old.CPUPeriod > 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
	case q.NanoCPUs > 0 && old.CPUQuota > 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
	case q.CPUPeriod > 0 && old.NanoCPUs > 0:
		return conflict("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case q.CPUQuota > 0 && old.NanoCPUs > 0:
		return conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case q.MemorySwap == 0 && old.MemorySwap > 0 && q.Memory > old.MemorySwap:
		return conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	number(&old.CPUShares, q.CPUShares)
	number(&old.NanoCPUs, q.NanoCPUs)
	number(&old.CPUPeriod, q.CPUPeriod)
	number(&old.CPUQuota, q.CPUQuota)
	number(&old.CPURealtimePeriod, q.CPURealtimePeriod)
	number(&old.CPURealtimeRuntime, q.CPURealtimeRuntime)
	number(&old.CpusetCpus, q.CpusetCpus)
	number(&old.CpusetMems, q.CpusetMems)
	number(&old.Memory, q.Memory)
	number(&old.MemorySwap, q.MemorySwap)
	number(&old.MemoryReservation, q.MemoryReservation)
	number(&old.BlkioWeight, q.BlkioWeight)
	if q.PidsLimit != nil {
		old.PidsLimit = q.PidsLimit
	}
	if old.Memory > 0 && old.MemorySwap == 0 { // as create does
		old.MemorySwap = 2 * old.Memory
	}
	if q.BlkioWeightDevice != nil {
		old.BlkioWeightDevice = q.BlkioWeightDevice
	}
	for _, l := range rates(&old, &q) {
		if *l.new != nil {
			*l.old = *l.new
		}
	}
	// The whole must be possible too: memory that is now below its reservation.
	if err := CheckLimits(&old, true); err != nil {
		return old, err
	}
	if old.MemorySwap > 0 && old.Memory == 0 {
		return old, invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	return old, nil
}

func number[T comparable](to *T, from T) {
	var none T
	if from != none {
		*to = from
	}
}

// rates are the four lists of limits of block devices, of both.
func rates(old, new *container.Resources) []struct{ old, new *[]*blkiodev.ThrottleDevice } {
	return []struct{ old, new *[]*blkiodev.ThrottleDevice }{
		{&old.BlkioDeviceReadBps, &new.BlkioDeviceReadBps}, {&old.BlkioDeviceWriteBps, &new.BlkioDeviceWriteBps},
		{&old.BlkioDeviceReadIOps, &new.BlkioDeviceReadIOps}, {&old.BlkioDeviceWriteIOps, &new.BlkioDeviceWriteIOps},
	}
}

// Change is what the kernel has to be told for a container that runs: q is the
// update, old and all are the limits before and after it.
func Change(old, q, all container.Resources) (box.Resources, error) {
	var r container.Resources
	if q.Memory != 0 || q.MemorySwap != 0 {
		r.Memory, r.MemorySwap = all.Memory, all.MemorySwap
	}
	if q.NanoCPUs != 0 || q.CPUPeriod != 0 || q.CPUQuota != 0 {
		r.NanoCPUs, r.CPUPeriod, r.CPUQuota = all.NanoCPUs, all.CPUPeriod, all.CPUQuota
	}
	r.MemoryReservation, r.CPUShares = q.MemoryReservation, q.CPUShares
	r.CpusetCpus, r.CpusetMems = q.CpusetCpus, q.CpusetMems
	r.CPURealtimePeriod, r.CPURealtimeRuntime = q.CPURealtimePeriod, q.CPURealtimeRuntime
	r.BlkioWeight, r.BlkioWeightDevice = q.BlkioWeight, lifted(old.BlkioWeightDevice, q.BlkioWeightDevice,
		func(d *blkiodev.WeightDevice) string { return d.Path }, func(path string) *blkiodev.WeightDevice { return &blkiodev.WeightDevice{Path: path} })
	before := rates(&old, &q)
	for i, l := range rates(&r, &q) {
		*l.old = lifted(*before[i].old, *l.new,
			func(d *blkiodev.ThrottleDevice) string { return d.Path }, func(path string) *blkiodev.ThrottleDevice { return &blkiodev.ThrottleDevice{Path: path} })
	}
	out, err := Resources(&r)
	if q.PidsLimit != nil {
		if out.PidsLimit = *q.PidsLimit; out.PidsLimit <= 0 {
			out.PidsLimit = -1
		}
	}
	return out, err
}

// lifted is a new list with the devices of the old one that it lacks, without a
// limit. Without a new list nothing changes.
func lifted[D any](old, new []D, path func(D) string, none func(path string) D) []D {
	if new == nil {
		return nil
	}
	out := append([]D{}, new...)
	for _, d := range old {
		found := false
		for _, n := range new {
			found = found || path(n) == path(d)
		}
		if !found {
			out = append(out, none(path(d)))
		}
	}
	return out
}
