package initproc

import (
	"strings"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// stock is what a spare init makes while it waits, on its own root: the file
// systems that nearly every box has, filled and masked. A start moves them.
type stock struct {
	proc, dev, cgroup int // O_PATH, the roots of the mounts
}

// build makes the stock that the plan describes and forgets the plan.
func (s *session) build() error {
	unix.Umask(0)
	s.went = true // a spare is told this after it has entered its cgroup
	if err := s.openProc(); err != nil {
		return err
	}
	var err error
	if s.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fail(stepRoot, "/", err, "cannot open the spare's root")
	}
	for _, f := range []func() error{s.cgroupNamespace, s.mountAll, s.makeDevices, s.hide} {
		if err := f(); err != nil {
			return err
		}
	}
	made := &stock{}
	for _, p := range []struct {
		path string
		fd   *int
	}{{"/proc", &made.proc}, {"/dev", &made.dev}, {"/sys/fs/cgroup", &made.cgroup}} {
		if *p.fd, err = openIn(s.root, p.path, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return fail(stepMount, p.path, err, "cannot find the spare's own mount")
		}
	}
	for _, fd := range append(s.fds[1:], s.root, s.dev) {
		unix.Close(fd)
	}
	s.fds, s.plan, s.root, s.dev, s.nullUsed, s.stock = nil, plan.Plan{}, -1, made.dev, false, made
	return s.send([]byte{plan.Built})
}

// stocked says whether m is in the stock, and which mount it is; -1 is one
// that comes with another.
func (s *session) stocked(m *plan.Mount) (fd int, ok bool) {
	if !s.plan.Stocked {
		return -1, false
	}
	switch {
	case m.Type == "cgroup":
		return s.stock.cgroup, true
	case m.Type == "proc":
		return s.stock.proc, true
	case isDev(m):
		return s.stock.dev, true
	}
	return -1, plan.InDev(m)
}

// hidden says whether a masked or read-only path was treated in the stock.
func hidden(p *plan.Plan, path string) bool {
	return p.Stocked && strings.HasPrefix(path, "/proc/")
}

// place moves a mount of the stock to its target in the box.
func place(s *session, m *plan.Mount, from int) error {
	if ordinary(m) {
		if err := s.refuseLink(m.Target); err != nil {
			return err
		}
	}
	target, err := ensure(s.root, m.Target, false)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := checkKind(m, target); err != nil {
		return err
	}
	return attach(from, target)
}
