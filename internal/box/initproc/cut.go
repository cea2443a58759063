package initproc

import (
	"encoding/binary"
	"unsafe"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// lastCap is the highest capability of the running kernel.
func lastCap() uint64 {
	c := uint64(0)
	for c < 63 {
		if r, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, uintptr(c+1), 0, 0, 0, 0); errno != 0 || int(r) < 0 {
			break
		}
		c++
	}
	return c
}

// cut writes the tape that turns the calling process into the program.
func (s *session) cut(who *identity, stdio [3]int, file string, env []string) {
	p := &s.plan.Process
	t := &s.tape
	t.add("terminal", "", "cannot make a new session", unix.SYS_SETSID).lax = true // pid 1 may lead one already
	for i, fd := range stdio {
		if fd != i {
			t.add("terminal", "", "cannot set up the standard streams", unix.SYS_DUP3, uintptr(fd), uintptr(i), 0)
		}
	}
	if user := s.fd(s.plan.UserFD); user >= 0 {
		// What only the host's root may do comes first. Nobody inside can look at
		// this process meanwhile: its memory belongs to the host's users.
		t.limits(p.Rlimits)
		t.add("namespaces", "user", "cannot join the container's user namespace", unix.SYS_SETNS, uintptr(user), unix.CLONE_NEWUSER)
		t.keyring(s.plan.ID)
	}
	t.forget(s.fd(s.plan.Tiny))
	if p.Terminal {
		t.add("terminal", "", "cannot make the terminal the controlling one", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
	if s.fd(s.plan.UserFD) < 0 {
		t.limits(p.Rlimits)
	}
	t.credentials(who, p)
	umask := uint32(0o022)
	if p.HasUmask {
		umask = p.Umask
	}
	t.add("umask", "", "cannot set the umask", unix.SYS_UMASK, uintptr(umask))
	t.add(stepDescriptors, "", closing, unix.SYS_CLOSE_RANGE, 3, uintptr(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	t.seccomp(p)
	if len(p.Seccomp) > 0 && !p.NoNewPrivileges {
		t.capset(permitted(p.Caps.Permitted), permitted(p.Caps.Effective), p.Caps.Inheritable)
	}
	s.execve(file, env)
}

// forget closes what belongs to the host as the first act, but for the socket
// and for what is executed: a process that was there before can look at this
// one, if it has CAP_SYS_PTRACE.
func (t *tape) forget(tiny int) {
	from := uintptr(socket + 1)
	if tiny >= 0 {
		if uintptr(tiny) > from {
			t.add(stepDescriptors, "", closing, unix.SYS_CLOSE_RANGE, from, uintptr(tiny)-1, 0)
		}
		from = uintptr(tiny) + 1
	}
	t.add(stepDescriptors, "", closing, unix.SYS_CLOSE_RANGE, from, uintptr(^uint32(0)), 0)
}

const (
	stepDescriptors = "descriptors"
	closing         = "cannot close the descriptors of init"
)

// LimitText says that a limit cannot be set.
func LimitText(l *plan.Rlimit) string {
	return "cannot set " + l.Name + " to " + limitText(l.Soft) + ":" + limitText(l.Hard) + " (without CAP_SYS_RESOURCE the engine's own hard limit is the most it can give)"
}

func (t *tape) limits(limits []plan.Rlimit) {
	for _, l := range limits {
		r := &unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		c := t.add(stepLimit, l.Name, LimitText(&l),
			unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(r)), 0)
		c.keep = r
	}
}

// permitted leaves out what init itself does not have: an engine that runs
// with fewer capabilities cannot give "all" of them.
func permitted(want uint64) uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return want
	}
	return want & (uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32)
}

func (t *tape) credentials(who *identity, p *plan.Process) {
	const step = "capabilities"
	for c := range lastCap() + 1 {
		if p.Caps.Bounding&(1<<c) == 0 {
			t.add(step, "", "cannot drop a capability from the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		}
	}
	t.add(step, "", "cannot keep capabilities over the change of user", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	var list uintptr
	if len(who.groups) > 0 {
		list = uintptr(unsafe.Pointer(&who.groups[0]))
	}
	t.add("user", "", "cannot set the additional groups", unix.SYS_SETGROUPS, uintptr(len(who.groups)), list).keep = who
	t.add("user", "", "cannot set the group", unix.SYS_SETRESGID, uintptr(who.gid), uintptr(who.gid), uintptr(who.gid))
	t.add("user", "", "cannot set the user", unix.SYS_SETRESUID, uintptr(who.uid), uintptr(who.uid), uintptr(who.uid))
	extra := uint64(0)
	if len(p.Seccomp) > 0 && !p.NoNewPrivileges {
		extra = 1 << unix.CAP_SYS_ADMIN // for seccomp(2); dropped right after it
	}
	t.capset(permitted(p.Caps.Permitted|extra), permitted(p.Caps.Effective|extra), p.Caps.Inheritable)
	t.add(step, "", "cannot clear ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	ambient := permitted(p.Caps.Ambient & p.Caps.Permitted & p.Caps.Inheritable)
	for c := range lastCap() + 1 {
		if ambient&(1<<c) != 0 {
			t.add(step, "", "cannot raise an ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0)
		}
	}
	if p.NoNewPrivileges {
		t.add(step, "", "cannot set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
}

func (t *tape) capset(permit, effective, inheritable uint64) {
	type set struct {
		header unix.CapUserHeader
		data   [2]unix.CapUserData
	}
	inheritable = permitted(inheritable)
	effective &= permit
	c := &set{header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
	c.data[0] = unix.CapUserData{Effective: uint32(effective), Permitted: uint32(permit), Inheritable: uint32(inheritable)}
	c.data[1] = unix.CapUserData{Effective: uint32(effective >> 32), Permitted: uint32(permit >> 32), Inheritable: uint32(inheritable >> 32)}
	t.add("capabilities", "", "cannot set the capabilities", unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&c.header)), uintptr(unsafe.Pointer(&c.data[0]))).keep = c
}

// seccomp comes as late as can be, so that a profile need allow nothing of init
// but capset(2) and execve(2) or execveat(2).
func (t *tape) seccomp(p *plan.Process) {
	if len(p.Seccomp) == 0 {
		return
	}
	filter := make([]unix.SockFilter, len(p.Seccomp)/8)
	for i := range filter {
		b := p.Seccomp[i*8:]
		filter[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])}
	}
	prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	t.add("seccomp", "", "cannot load the seccomp filter", unix.SYS_SECCOMP,
		unix.SECCOMP_SET_MODE_FILTER, uintptr(p.SeccompFlags), uintptr(unsafe.Pointer(prog))).keep = prog
}

func (s *session) execve(file string, env []string) {
	argv := s.plan.Process.Args
	envp := pointers(env)
	tiny := s.fd(s.plan.Tiny)
	if tiny >= 0 {
		argv = append([]string{"hezi-init", file}, argv...)
		args, empty := pointers(argv), pointers([]string{""})
		c := s.tape.add("exec", file, "exec "+file, unix.SYS_EXECVEAT, uintptr(tiny), uintptr(unsafe.Pointer(empty[0])),
			uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH)
		c.keep = [][]*byte{args, envp, empty}
		return
	}
	args, name := pointers(argv), pointers([]string{file})
	c := s.tape.add("exec", file, "exec "+file, unix.SYS_EXECVE, uintptr(unsafe.Pointer(name[0])),
		uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&envp[0])))
	c.keep = [][]*byte{args, envp, name}
}

// pointers makes a NULL-terminated vector. What holds a NUL byte was refused
// when the plan was made.
func pointers(list []string) []*byte {
	out := make([]*byte, 0, len(list)+1)
	for _, v := range list {
		b := make([]byte, len(v)+1)
		copy(b, v)
		out = append(out, &b[0])
	}
	return append(out, nil)
}
