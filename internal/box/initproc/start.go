package initproc

import (
	"strconv"
	"strings"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// leaveHost puts an empty tmpfs in place of the host's mounts, so that a spare
// init pins none of them.
func (s *session) leaveHost() error {
	if err := alone(); err != nil {
		return err
	}
	fd, err := NewMount("tmpfs", "size=4k,mode=755", 0)
	if err != nil {
		return fail(stepRoot, "/", err, "cannot make an empty root")
	}
	defer unix.Close(fd)
	return pivot(fd)
}

// alone has the mount namespace neither send nor receive mounts.
func alone() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(stepRoot, "/", err, "cannot make the new mount namespace private")
	}
	return nil
}

// enterRoot makes the box's root file system this process's root. The host's
// mounts are gone since leaveHost, so what lies below is an empty tmpfs at whose
// root this one is mounted: ".." cannot come there (namei.c, choose_mountpoint),
// and a second pivot_root would wait for an RCU grace period (2.6 ms) to
// unmount it. Nothing else differs: a root that pivot_root made also lies on
// another, the kernel's rootfs.
func (s *session) enterRoot() error {
	if err := unix.Fchdir(s.root); err != nil {
		return fail(stepPivot, "/", err, "cannot enter the root file system")
	}
	if err := unix.Chroot("."); err != nil {
		return fail(stepPivot, "/", err, "cannot make the container's file system the root")
	}
	if err := unix.Chdir("/"); err != nil {
		return fail(stepPivot, "/", err, "cannot enter the new root")
	}
	return nil
}

// pivot makes the detached mount the root and forgets the old one.
func pivot(root int) error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(stepPivot, "/", err, "cannot open the old root")
	}
	defer unix.Close(old)
	if err := attach(root, old); err != nil {
		return fail(stepRoot, "/", err, "cannot attach the root file system")
	}
	return pivotTo(root, old)
}

// pivotTo makes an attached mount the root.
func pivotTo(root, old int) error {
	if err := unix.Fchdir(root); err != nil {
		return fail(stepPivot, "/", err, "cannot enter the root file system")
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fail(stepPivot, "/", err, "cannot make the container's file system the root (pivot_root; a host that runs from its initramfs cannot do it)")
	}
	if err := unix.Fchdir(old); err != nil {
		return fail(stepPivot, "/", err, "cannot return to the old root")
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fail(stepPivot, "/", err, "cannot leave the old root")
	}
	if err := unix.Chdir("/"); err != nil {
		return fail(stepPivot, "/", err, "cannot enter the new root")
	}
	return nil
}

// start builds the box around this process and becomes its program.
func (s *session) start() error {
	unix.Umask(0)
	if err := s.enter(); err != nil {
		return err
	}
	if err := s.openProc(); err != nil {
		return err
	}
	if s.plan.User {
		if err := mountEarly(s); err != nil {
			return err
		}
	}
	if err := makeRoot(s); err != nil {
		return err
	}
	if err := s.prepareProgram(); err != nil {
		return err
	}
	if err := s.send([]byte{plan.Ready}); err != nil {
		return err
	}
	if err := s.wait(); err != nil {
		return err
	}
	if err := gate(s); err != nil {
		return err
	}
	if err := startHooks(s); err != nil {
		return err
	}
	s.tape.play() // reports its own failure
	unix.Exit(1)
	return nil
}

// makeRoot builds the root file system and enters it.
func makeRoot(s *session) error {
	if s.plan.Hooks.State != "" {
		return makeHookedRoot(s)
	}
	if s.plan.User {
		if err := s.leaveHost(); err != nil {
			return err
		}
	}
	if err := s.buildRoot(); err != nil {
		return err
	}
	if err := settleRoot(s); err != nil {
		return err
	}
	if err := s.cgroupNamespace(); err != nil {
		return err
	}
	if err := s.names(); err != nil {
		return err
	}
	return s.enterRoot()
}

// makeHookedRoot is makeRoot with the hooks that see the root file system beside
// the host's mounts, and may still write to it.
func makeHookedRoot(s *session) error {
	leave := s.plan.Hooks.Leave
	if leave {
		if err := alone(); err != nil {
			return err
		}
	}
	if err := s.buildRoot(); err != nil {
		return err
	}
	if err := s.cgroupNamespace(); err != nil {
		return err
	}
	if err := s.names(); err != nil {
		return err
	}
	if err := createHooks(s); err != nil {
		return err
	}
	if err := settleRoot(s); err != nil {
		return err
	}
	if !leave {
		return s.enterRoot()
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(stepPivot, "/", err, "cannot open the old root")
	}
	defer unix.Close(old)
	return pivotTo(s.root, old)
}

// gate waits until the plan's FIFO is read. Whoever made the box is told by the
// end of the socket that it stands, and may go.
func gate(s *session) error {
	fd := s.fd(s.plan.Gate)
	if fd < 0 {
		return nil
	}
	if err := unix.Shutdown(socket, unix.SHUT_RDWR); err != nil {
		return err
	}
	name := "self/fd/" + strconv.Itoa(fd)
	for {
		w, err := unix.Openat(s.proc, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		_, err = unix.Write(w, []byte{1})
		unix.Close(w)
		return err
	}
}

func (s *session) enter() error {
	for _, e := range s.plan.Enter {
		if e.Flags == unix.CLONE_NEWNS { // for whoever shares no root with others (setns(2))
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fail("namespaces", e.Name, err, "cannot leave the root that init's threads share")
			}
		}
		if err := unix.Setns(s.fd(e.FD), e.Flags); err != nil {
			return fail("namespaces", e.Name, err, "cannot join the "+e.Name+" namespace")
		}
	}
	return nil
}

// openProc makes the procfs that is attached nowhere: no mount inside can
// stand in for it (CVE-2025-52881). It has processes only; one that has the
// kernel's settings, too, is made where the plan has some, and is closed after them.
func (s *session) openProc() error {
	var err error
	if s.proc < 0 { // else with the stock
		if s.proc, err = newProc("subset=pid", s.plan.User); err != nil {
			return err
		}
	}
	if len(s.plan.Sysctl) > 0 {
		s.settings, err = newProc("", s.plan.User)
	}
	return err
}

func newProc(data string, user bool) (int, error) {
	fd, err := NewMount("proc", data, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err == unix.EPERM && user {
		return -1, fail(stepMount, "/proc", err, noNew("/proc"))
	}
	if err != nil {
		return -1, fail(stepMount, "/proc", err, "cannot make a private procfs")
	}
	return fd, nil
}

// mountEarly makes the mounts that a user namespace may make only while the
// host's are in sight (mount_namespaces(7), "Restrictions on mount namespaces").
func mountEarly(s *session) error {
	s.early = map[*plan.Mount]int{}
	for i := range s.plan.Mounts {
		m := &s.plan.Mounts[i]
		if m.Type != "proc" && m.Type != "sysfs" {
			continue
		}
		fd, err := s.tree(m)
		if err == unix.EPERM {
			return fail(stepMount, m.Target, err, noNew(m.Target))
		}
		if err != nil {
			return fail(stepMount, m.Target, err, "cannot mount "+m.Type+" at "+strconv.Quote(m.Target)+" in the container")
		}
		s.early[m] = fd
	}
	return nil
}

func noNew(target string) string {
	return "the kernel allows no new " + target + " in a user namespace while the host's own is covered in part (does the engine run in a container?), nor a new /sys whose network namespace is not its own"
}

func (s *session) buildRoot() error {
	s.root = s.fd(s.plan.Root)
	at := "/"
	if s.plan.RootAt != "" {
		at = s.plan.RootAt
	}
	old, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(stepRoot, at, err, "cannot open "+at+", where the root file system is to be")
	}
	err = attach(s.root, old)
	unix.Close(old)
	if err != nil {
		return fail(stepRoot, "/", err, "cannot attach the container's root file system")
	}
	if err := s.mountAll(); err != nil {
		return err
	}
	if err := s.makeDevices(); err != nil {
		return err
	}
	if err := s.workingDirectory(); err != nil {
		return err
	}
	return s.hide()
}

// settleRoot makes the root file system what the program finds.
func settleRoot(s *session) error {
	if s.plan.ReadonlyRoot {
		if err := setAttr(s.root, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return fail(stepRoot, "/", err, "cannot make the root file system read-only")
		}
	}
	if s.plan.RootHow != 0 {
		if err := setPropagation(s.root, s.plan.RootHow, false); err != nil {
			return fail(stepRoot, "/", err, "cannot set the propagation of the root file system")
		}
	}
	return nil
}

// workingDirectory makes the working directory when the image lacks it. The
// root may be read-only soon, so it happens here.
func (s *session) workingDirectory() error {
	fd, err := ensure(s.root, s.plan.Process.Cwd, false)
	if err == unix.EROFS || err == unix.EEXIST {
		return nil // chdir will say what is wrong
	}
	if err != nil {
		return fail("working directory", s.plan.Process.Cwd, err, "cannot make the working directory "+strconv.Quote(s.plan.Process.Cwd)+" in the container")
	}
	unix.Close(fd)
	return nil
}

func (s *session) cgroupNamespace() error {
	if err := s.enterCgroup(); err != nil {
		return err
	}
	if !s.plan.UnshareCgroup || s.unshared {
		return nil
	}
	s.unshared = true
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fail("namespaces", "cgroup", err, "cannot make a new cgroup namespace")
	}
	return nil
}

// names sets what belongs to the UTS and other namespaces.
func (s *session) names() error {
	p := &s.plan
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			return fail("hostname", p.Hostname, err, "cannot set the hostname "+strconv.Quote(p.Hostname))
		}
	}
	if p.Domainname != "" {
		if err := unix.Setdomainname([]byte(p.Domainname)); err != nil {
			return fail("hostname", p.Domainname, err, "cannot set the domain name "+strconv.Quote(p.Domainname))
		}
	}
	for _, kv := range p.Sysctl {
		name := kv.Key
		if !strings.Contains(name, "/") {
			name = strings.ReplaceAll(name, ".", "/")
		}
		if err := writeBelow(s.settings, "sys/"+name, kv.Value); err != nil {
			return fail("sysctl", kv.Key, err, "cannot set the sysctl "+kv.Key+" to "+strconv.Quote(kv.Value)+" (write "+strconv.Quote(kv.Key+"="+kv.Value)+" to /proc/sys)")
		}
	}
	if len(p.Sysctl) > 0 {
		unix.Close(s.settings)
	}
	return nil
}

// writeProc writes a file of the private procfs; its "self" is this process.
func (s *session) writeProc(name, value string) error { return writeBelow(s.proc, name, value) }

func writeBelow(proc int, name, value string) error {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV}
	fd, err := unix.Openat2(proc, name, &how)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
