package oci

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/box/scope"
)

// groups places and limits the box; slice is where systemd is to make its scope,
// if it is to.
func groups(s *box.Spec, l *specs.Linux, systemd bool) (slice string, err error) {
	switch at := l.CgroupsPath; {
	case systemd:
		slice, err = scoped(s, s.ID, at)
	case strings.Count(at, ":") == 2 && !strings.HasPrefix(at, "/"):
		err = fmt.Errorf("the cgroup %q is for systemd: give --systemd-cgroup, or %s", at, byFiles)
	default:
		err = placed(s, at)
	}
	if err != nil || l.Resources == nil {
		return slice, err
	}
	g := &s.Cgroup
	if g.Resources, err = resources(l.Resources); err != nil {
		return "", err
	}
	if systemd {
		g.Resources = scope.Rounded(g.Resources)
	}
	g.AllDevices, g.DeviceRules, err = deviceRules(l.Resources.Devices)
	return slice, err
}

// placed places the box in a cgroup of its own.
func placed(s *box.Spec, at string) error {
	if at == "" {
		at = "/hezi-oci/" + s.ID
	}
	clean := path.Clean("/" + at)
	s.Cgroup.Parent, s.Cgroup.Foreign = path.Dir(clean), true
	if s.ID = path.Base(clean); s.ID == "/" { // the leaf
		return fmt.Errorf("the cgroup %q is the root of all: write /PARENT/NAME", at)
	}
	return nil
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func resources(r *specs.LinuxResources) (box.Resources, error) {
	var out box.Resources
	if len(r.Rdma)+len(r.Unified) > 0 || r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0) {
		return out, errors.New("limits of RDMA, network classes and unified are not supported by this runtime")
	}
	if m := r.Memory; m != nil {
		//lint:ignore SA1019 old callers still set them
		if value(m.Kernel) > 0 || value(m.KernelTCP) > 0 {
			return out, errors.New("limits of kernel memory are not supported by this runtime, nor by current kernels")
		}
		out.Memory, out.MemorySwap, out.MemoryReservation = max(0, value(m.Limit)), value(m.Swap), max(0, value(m.Reservation))
		out.OOMKillDisable = value(m.DisableOOMKiller)
		if m.Swappiness != nil {
			out.Swappiness = new(int64(*m.Swappiness))
		}
	}
	if c := r.CPU; c != nil {
		if value(c.Burst) != 0 || value(c.Idle) != 0 {
			return out, errors.New("cpu.burst and cpu.idle are not supported by this runtime")
		}
		out.CPUShares, out.CPUQuota, out.CPUPeriod = value(c.Shares), value(c.Quota), value(c.Period)
		out.RTPeriod, out.RTRuntime, out.CpusetCpus, out.CpusetMems = value(c.RealtimePeriod), value(c.RealtimeRuntime), c.Cpus, c.Mems
	}
	if r.Pids != nil {
		out.PidsLimit = value(r.Pids.Limit)
	}
	out.HugePages = hugePages(r.HugepageLimits)
	if b := r.BlockIO; b != nil {
		if value(b.LeafWeight) != 0 {
			return out, errors.New("blockIO.leafWeight is not supported by this runtime")
		}
		io := &cgroup.IO{Weight: value(b.Weight), ReadBps: throttles(b.ThrottleReadBpsDevice), WriteBps: throttles(b.ThrottleWriteBpsDevice),
			ReadIOps: throttles(b.ThrottleReadIOPSDevice), WriteIOps: throttles(b.ThrottleWriteIOPSDevice)}
		for _, d := range b.WeightDevice {
			io.WeightDevice = append(io.WeightDevice, cgroup.DeviceLimit{Major: uint32(d.Major), Minor: uint32(d.Minor), Value: uint64(value(d.Weight))})
		}
		if io.Weight != 0 || len(io.WeightDevice)+len(io.ReadBps)+len(io.WriteBps)+len(io.ReadIOps)+len(io.WriteIOps) > 0 {
			out.IO = io
		}
	}
	return out, nil
}

// hugePages: no limit is written as the largest number.
func hugePages(list []specs.LinuxHugepageLimit) *cgroup.HugePages {
	if len(list) == 0 {
		return nil
	}
	out := &cgroup.HugePages{}
	for _, l := range list {
		p := cgroup.HugePage{Size: l.Pagesize, Bytes: -1}
		if l.Limit < math.MaxInt64 {
			p.Bytes = int64(l.Limit)
		}
		out.Limits = append(out.Limits, p)
	}
	return out
}

func throttles(list []specs.LinuxThrottleDevice) (out []cgroup.DeviceLimit) {
	for _, d := range list {
		out = append(out, cgroup.DeviceLimit{Major: uint32(d.Major), Minor: uint32(d.Minor), Value: d.Rate})
	}
	return out
}

// deviceRules are read in order: what is allowed after the last rule about all
// devices. The box's default devices are always allowed.
func deviceRules(list []specs.LinuxDeviceCgroup) (all bool, rules []box.DeviceRule, err error) {
	for _, d := range list {
		r := box.DeviceRule{Type: d.Type, Major: -1, Minor: -1, Access: d.Access}
		if r.Type == "" {
			r.Type = "a"
		}
		if r.Access == "" {
			r.Access = "rwm"
		}
		if d.Major != nil {
			r.Major = *d.Major
		}
		if d.Minor != nil {
			r.Minor = *d.Minor
		}
		everything := r.Type == "a" && r.Major < 0 && r.Minor < 0
		switch {
		case everything:
			all, rules = d.Allow, nil
		case d.Allow && !all:
			rules = append(rules, r)
		case !d.Allow:
			return false, nil, fmt.Errorf("a rule that denies the device %s %d:%d alone is not supported by this runtime: deny all first, and allow what is needed", d.Type, r.Major, r.Minor)
		}
	}
	return all, rules, nil
}
