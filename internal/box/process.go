package box

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// process puts p into the plan, with names made numbers.
func (b *bundle) process(p *Process) error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return stepError(StepExec, "", nil, "no command specified: the image has none, so name one after the image")
	}
	for _, list := range [][]string{p.Args, p.Env, {p.Cwd, p.User}} {
		for _, v := range list {
			if strings.IndexByte(v, 0) >= 0 {
				return stepError(StepExec, v, nil, "an argument or a variable holds a zero byte, which no program can receive")
			}
		}
	}
	out := plan.Process{Args: p.Args, Env: p.Env, Cwd: p.Cwd, User: p.User, AdditionalGroups: p.AdditionalGroups,
		Terminal: p.Terminal, Height: p.ConsoleHeight, Width: p.ConsoleWidth,
		NoNewPrivileges: p.NoNewPrivileges, Seccomp: p.Seccomp, SeccompFlags: p.SeccompFlags,
		AppArmor: p.AppArmorProfile, SELinux: p.SELinuxLabel}
	if p.OOMScoreAdj != nil {
		out.HasOOMScoreAdj, out.OOMScoreAdj = true, *p.OOMScoreAdj
	}
	if p.Umask != nil {
		out.HasUmask, out.Umask = true, *p.Umask
	}
	for _, l := range p.Rlimits {
		n, ok := rlimits[l.Type]
		if !ok {
			return stepError(StepRlimit, l.Type, nil, "the resource limit "+strconv.Quote(l.Type)+" is unknown")
		}
		out.Rlimits = append(out.Rlimits, plan.Rlimit{Name: l.Type, Resource: n, Soft: l.Soft, Hard: l.Hard})
	}
	for _, set := range []struct {
		to    *uint64
		names []string
	}{{&out.Caps.Bounding, p.Capabilities.Bounding}, {&out.Caps.Effective, p.Capabilities.Effective},
		{&out.Caps.Permitted, p.Capabilities.Permitted}, {&out.Caps.Inheritable, p.Capabilities.Inheritable},
		{&out.Caps.Ambient, p.Capabilities.Ambient}} {
		for _, name := range set.names {
			bit, ok := capabilities[name]
			if !ok {
				return stepError(StepCaps, name, nil, "the capability "+strconv.Quote(name)+" is unknown")
			}
			*set.to |= 1 << bit
		}
	}
	b.plan.Process = out
	return nil
}

var rlimits = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

var capabilities = map[string]uint{
	"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"CAP_FOWNER": unix.CAP_FOWNER, "CAP_FSETID": unix.CAP_FSETID, "CAP_KILL": unix.CAP_KILL, "CAP_SETGID": unix.CAP_SETGID,
	"CAP_SETUID": unix.CAP_SETUID, "CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_LINUX_IMMUTABLE": unix.CAP_LINUX_IMMUTABLE,
	"CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "CAP_NET_BROADCAST": unix.CAP_NET_BROADCAST,
	"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_IPC_LOCK": unix.CAP_IPC_LOCK,
	"CAP_IPC_OWNER": unix.CAP_IPC_OWNER, "CAP_SYS_MODULE": unix.CAP_SYS_MODULE, "CAP_SYS_RAWIO": unix.CAP_SYS_RAWIO,
	"CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT, "CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE, "CAP_SYS_PACCT": unix.CAP_SYS_PACCT,
	"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_SYS_BOOT": unix.CAP_SYS_BOOT, "CAP_SYS_NICE": unix.CAP_SYS_NICE,
	"CAP_SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "CAP_SYS_TIME": unix.CAP_SYS_TIME, "CAP_SYS_TTY_CONFIG": unix.CAP_SYS_TTY_CONFIG,
	"CAP_MKNOD": unix.CAP_MKNOD, "CAP_LEASE": unix.CAP_LEASE, "CAP_AUDIT_WRITE": unix.CAP_AUDIT_WRITE,
	"CAP_AUDIT_CONTROL": unix.CAP_AUDIT_CONTROL, "CAP_SETFCAP": unix.CAP_SETFCAP, "CAP_MAC_OVERRIDE": unix.CAP_MAC_OVERRIDE,
	"CAP_MAC_ADMIN": unix.CAP_MAC_ADMIN, "CAP_SYSLOG": unix.CAP_SYSLOG, "CAP_WAKE_ALARM": unix.CAP_WAKE_ALARM,
	"CAP_BLOCK_SUSPEND": unix.CAP_BLOCK_SUSPEND, "CAP_AUDIT_READ": unix.CAP_AUDIT_READ, "CAP_PERFMON": unix.CAP_PERFMON,
	"CAP_BPF": unix.CAP_BPF, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
}

// HeldCapabilities leaves out those that this process does not have itself: an
// engine that runs with fewer cannot give all of them.
func HeldCapabilities(names []string) []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return names // whoever sets them says so
	}
	has := uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		bit, known := capabilities[n]
		return known && has&(1<<bit) == 0
	})
}

// CapabilityNames are the capabilities that are known, sorted.
func CapabilityNames() []string { return slices.Sorted(maps.Keys(capabilities)) }
