package initproc

import (
	"encoding/binary"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// join enters a running box and forks the program there. This process itself
// stays in the host's pid namespace: setns(2) moves only its children.
func (s *session) join() error {
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("namespaces", "/proc", err, "cannot open the host's procfs")
	}
	s.proc = proc
	if err := s.enterCgroup(); err != nil {
		return err
	}
	if err := s.processAttributes(); err != nil { // while the host's procfs is the one in sight
		return err
	}
	unix.Close(proc) // a process inside could take it from the child, and the whole host with it
	s.proc = -1
	if err := s.enter(); err != nil {
		return err
	}
	if s.root = s.fd(s.plan.Root); s.root >= 0 {
		if err := s.enterRoot(); err != nil {
			return err
		}
	}
	flags := uint64(unix.CLONE_PARENT)
	if s.fd(s.plan.CgroupDir) >= 0 { // the child joins the cgroup namespace when it is in the group
		flags |= unix.CLONE_INTO_CGROUP
		s.tape.add("namespaces", "cgroup", "cannot join the container's cgroup namespace", unix.SYS_SETNS, uintptr(s.fd(s.plan.Enter[0].FD)), unix.CLONE_NEWCGROUP)
	}
	if err := s.prepareProgram(); err != nil {
		return err
	}
	pid, errno := s.tape.fork(flags, s.fd(s.plan.CgroupDir))
	if errno != 0 {
		return fail("namespaces", "", errno, "cannot make a process in the container (is it still running, and below its limit of processes?)")
	}
	return s.send(binary.LittleEndian.AppendUint32([]byte{plan.Child}, uint32(pid)))
}
