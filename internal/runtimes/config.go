package runtimes

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

// version of the OCI runtime specification: one that all runtimes know.
const version = "1.0.2"

// config is the bundle's configuration for a box whose mounts were staged.
func config(s *box.Spec, l *Launch, root string, mounts []box.Mount, who box.Identity, cgroups string) *specs.Spec {
	c := &specs.Spec{
		Version: version, Hostname: s.Hostname, Annotations: l.Annotations, Hooks: l.Hooks,
		Root:    &specs.Root{Path: root, Readonly: s.Root.ReadOnly},
		Process: process(&s.Process, who),
		Linux: &specs.Linux{
			CgroupsPath: cgroups, Sysctl: map[string]string{}, Seccomp: l.Seccomp,
			MaskedPaths: s.MaskedPaths, ReadonlyPaths: s.ReadonlyPaths, MountLabel: s.FileLabel,
			Resources: resources(&s.Cgroup.Resources),
		},
	}
	for k, v := range s.Sysctl {
		c.Linux.Sysctl[strings.ReplaceAll(k, "/", ".")] = v
	}
	if s.Domainname != "" { // older runtimes know no field for it
		c.Linux.Sysctl["kernel.domainname"] = s.Domainname
	}
	if u := s.Users; u != nil {
		c.Linux.UIDMappings, c.Linux.GIDMappings = idMaps(u.UIDs), idMaps(u.GIDs)
	}
	for i := range mounts {
		c.Mounts = append(c.Mounts, mount(&mounts[i]))
	}
	c.Linux.RootfsPropagation = propagation(mounts)
	for i := range s.Devices {
		c.Linux.Devices = append(c.Linux.Devices, device(&s.Devices[i]))
	}
	c.Linux.Resources.Devices = deviceRules(&s.Cgroup)
	return c
}

func idMaps(list []box.IDMap) (out []specs.LinuxIDMapping) {
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.Container, HostID: m.Host, Size: m.Size})
	}
	return out
}

// process is a program of a start or an exec.
func process(p *box.Process, who box.Identity) *specs.Process {
	out := &specs.Process{
		Args: p.Args, Env: who.Environment(p.Env), Cwd: p.Cwd, Terminal: p.Terminal,
		User:            specs.User{UID: uint32(who.UID), GID: uint32(who.GID), AdditionalGids: who.Groups, Umask: p.Umask},
		NoNewPrivileges: p.NoNewPrivileges, OOMScoreAdj: p.OOMScoreAdj, ApparmorProfile: p.AppArmorProfile, SelinuxLabel: p.SELinuxLabel,
		Capabilities: &specs.LinuxCapabilities{
			Bounding: box.HeldCapabilities(p.Capabilities.Bounding), Effective: box.HeldCapabilities(p.Capabilities.Effective), Permitted: box.HeldCapabilities(p.Capabilities.Permitted),
			Inheritable: box.HeldCapabilities(p.Capabilities.Inheritable), Ambient: box.HeldCapabilities(p.Capabilities.Ambient),
		},
	}
	if p.ConsoleHeight != 0 || p.ConsoleWidth != 0 {
		out.ConsoleSize = &specs.Box{Height: uint(p.ConsoleHeight), Width: uint(p.ConsoleWidth)}
	}
	for _, l := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, specs.POSIXRlimit{Type: l.Type, Soft: l.Soft, Hard: l.Hard})
	}
	return out
}

// mount is one in mount(8)'s terms.
func mount(m *box.Mount) specs.Mount {
	out := specs.Mount{Destination: m.Target, Type: m.Type, Source: m.Type}
	if m.Type == box.MountBind {
		out.Source = m.Source
		out.Options = []string{"bind"}
		if m.Recursive {
			out.Options[0] = "rbind"
		}
	}
	for _, o := range []struct {
		name string
		set  bool
	}{{"ro", m.ReadOnly}, {"nosuid", m.NoSuid}, {"nodev", m.NoDev}, {"noexec", m.NoExec}} {
		if o.set {
			out.Options = append(out.Options, o.name)
		}
	}
	if m.Propagation != "" {
		out.Options = append(out.Options, m.Propagation)
	} else if m.Type == box.MountBind {
		out.Options = append(out.Options, "rprivate")
	}
	for o := range strings.SplitSeq(m.Data, ",") {
		if o != "" {
			out.Options = append(out.Options, o)
		}
	}
	return out
}

// propagation is the root's, which must not be less than that of what is mounted
// in it: a runtime that makes all private first would cut the mounts off.
func propagation(mounts []box.Mount) string {
	how := ""
	for i := range mounts {
		switch mounts[i].Propagation {
		case "shared", "rshared":
			return "shared"
		case "slave", "rslave":
			how = "rslave"
		}
	}
	return how
}

func device(d *box.Device) specs.LinuxDevice {
	mode, uid, gid := os.FileMode(d.Mode&0o7777), d.UID, d.GID
	return specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &uid, GID: &gid}
}

func deviceRules(g *box.Cgroup) []specs.LinuxDeviceCgroup {
	if g.AllDevices {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	list := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, r := range slices.Concat(cgroup.DefaultRules(), g.DeviceRules) {
		one := specs.LinuxDeviceCgroup{Allow: true, Type: r.Type, Access: r.Access}
		if r.Major >= 0 {
			one.Major = new(r.Major)
		}
		if r.Minor >= 0 {
			one.Minor = new(r.Minor)
		}
		list = append(list, one)
	}
	return list
}

// resources are limits; those that are not set are left out.
func resources(r *box.Resources) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if m := memory(r); *m != (specs.LinuxMemory{}) {
		out.Memory = m
	}
	if c := cpu(r); *c != (specs.LinuxCPU{}) {
		out.CPU = c
	}
	if r.PidsLimit != 0 {
		out.Pids = &specs.LinuxPids{Limit: new(r.PidsLimit)}
	}
	if r.IO != nil {
		out.BlockIO = blockIO(r.IO)
	}
	if r.HugePages != nil {
		for _, p := range r.HugePages.Limits {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: p.Size, Limit: uint64(p.Bytes)})
		}
	}
	return out
}

func memory(r *box.Resources) *specs.LinuxMemory {
	m := &specs.LinuxMemory{}
	if r.Memory != 0 {
		m.Limit = new(r.Memory)
	}
	switch {
	case r.MemorySwap != 0:
		m.Swap = new(r.MemorySwap)
	case r.Memory > 0:
		m.Swap = new(2 * r.Memory)
	}
	if r.MemoryReservation != 0 {
		m.Reservation = new(r.MemoryReservation)
	}
	if r.Swappiness != nil {
		m.Swappiness = new(uint64(*r.Swappiness))
	}
	if r.OOMKillDisable {
		m.DisableOOMKiller = new(true)
	}
	return m
}

func cpu(r *box.Resources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares != 0 {
		c.Shares = new(r.CPUShares)
	}
	if r.CPUQuota != 0 {
		c.Quota = new(r.CPUQuota)
	}
	if r.CPUPeriod != 0 {
		c.Period = new(r.CPUPeriod)
	}
	if r.RTPeriod != 0 {
		c.RealtimePeriod = new(r.RTPeriod)
	}
	if r.RTRuntime != 0 {
		c.RealtimeRuntime = new(r.RTRuntime)
	}
	return c
}

func blockIO(io *cgroup.IO) *specs.LinuxBlockIO {
	out := &specs.LinuxBlockIO{ThrottleReadBpsDevice: throttles(io.ReadBps), ThrottleWriteBpsDevice: throttles(io.WriteBps),
		ThrottleReadIOPSDevice: throttles(io.ReadIOps), ThrottleWriteIOPSDevice: throttles(io.WriteIOps)}
	if io.Weight != 0 {
		out.Weight = new(io.Weight)
	}
	for _, d := range io.WeightDevice {
		w := specs.LinuxWeightDevice{Weight: new(uint16(d.Value))}
		w.Major, w.Minor = int64(d.Major), int64(d.Minor)
		out.WeightDevice = append(out.WeightDevice, w)
	}
	return out
}

func throttles(list []cgroup.DeviceLimit) (out []specs.LinuxThrottleDevice) {
	for _, d := range list {
		t := specs.LinuxThrottleDevice{Rate: d.Value}
		t.Major, t.Minor = int64(d.Major), int64(d.Minor)
		out = append(out, t)
	}
	return out
}

// namespaces adds those of the box. Those of other containers are held open until
// the runtime has joined them.
func namespaces(c *specs.Spec, s *box.Spec) (held []*os.File, err error) {
	c.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if s.Users != nil && s.Namespaces.User.Mode == box.NamespaceNew {
		c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	n := &s.Namespaces
	for _, ns := range []struct {
		kind specs.LinuxNamespaceType
		name string
		of   box.Namespace
	}{{specs.PIDNamespace, "pid", n.PID}, {specs.IPCNamespace, "ipc", n.IPC}, {specs.UTSNamespace, "uts", n.UTS}, {specs.NetworkNamespace, "net", n.Net},
		{specs.CgroupNamespace, "cgroup", n.Cgroup}, {specs.UserNamespace, "user", n.User}} {
		one := specs.LinuxNamespace{Type: ns.kind}
		switch ns.of.Mode {
		case box.NamespaceHost:
			continue
		case box.NamespaceNew:
			if ns.kind == specs.UserNamespace {
				continue
			}
		default:
			f, err := ns.of.Open(ns.name)
			if err != nil {
				return held, err
			}
			held = append(held, f)
			one.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), rawFD(f))
		}
		c.Linux.Namespaces = append(c.Linux.Namespaces, one)
	}
	return held, nil
}

// rawFD is f's descriptor, which stays what it is: os.File.Fd would make it block.
func rawFD(f *os.File) int {
	fd := -1
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(p uintptr) { fd = int(p) }) // -1 tells of a closed one
	}
	return fd
}
