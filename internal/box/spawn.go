package box

import (
	"os"
	"runtime"
	"strconv"
	"syscall"

	"hezi/internal/box/initproc"

	"golang.org/x/sys/unix"
)

// birth says what an init is born into.
type birth struct {
	mode     string
	flags    uintptr // CLONE_NEW*
	cgroupFD int     // v2: clone into it; -1: stay
	pidNS    int     // join this pid namespace; -1: none
	users    *Users  // of a new user namespace; nil: none
	userNS   int     // join this user namespace (a pidfd of a process in it); -1: none
	anyUser  bool    // users need have no root: nothing is done in the namespace
}

// spawn starts init. It inherits nothing but /dev/null and its socket.
func (r *Runtime) spawn(b birth) (*child, error) {
	if b.userNS >= 0 {
		return r.spawnInUserNamespace(b)
	}
	if b.pidNS >= 0 {
		return r.spawnInPIDNamespace(b)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, stepError(StepNamespace, "", err, "cannot make a socket for init")
	}
	conn := os.NewFile(uintptr(ends[0]), "init")
	defer unix.Close(ends[1])
	if err := unix.SetNonblock(ends[1], false); err != nil {
		conn.Close()
		return nil, err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		conn.Close()
		return nil, stepError(StepDevice, "/dev/null", err, "cannot open the host's /dev/null")
	}
	defer unix.Close(null)
	pidfd := -1
	// ForkExec moves descriptors to numbers above the highest of these, where
	// init's own must not be; it closes all but the socket.
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{initproc.ModeVariable + "=" + b.mode, "GOGC=off", "GOMAXPROCS=1"},
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(ends[1]), uintptr(rawFD(r.init))},
		Sys:   &syscall.SysProcAttr{Cloneflags: b.flags, PidFD: &pidfd, Setsid: true},
	}
	if b.users != nil {
		if err := b.users.become(attr.Sys, b.anyUser); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if b.cgroupFD >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, b.cgroupFD
	}
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(rawFD(r.init)), []string{"hezi-init"}, attr)
	if err != nil {
		conn.Close()
		return nil, stepError(StepNamespace, "", err, "cannot start init in new namespaces (does the engine run as root, and does the host allow more processes and namespaces? see user.max_*_namespaces)")
	}
	return &child{pid: pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd"), conn: conn}, nil
}

// spawnInPIDNamespace moves a thread's future children into the namespace. The
// thread ends with its goroutine.
func (r *Runtime) spawnInPIDNamespace(b birth) (*child, error) {
	type result struct {
		c   *child
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		if err := unix.Setns(b.pidNS, unix.CLONE_NEWPID); err != nil {
			done <- result{nil, stepError(StepNamespace, "pid", err, "cannot join the pid namespace")}
			return
		}
		b.pidNS = -1
		c, err := r.spawn(b)
		done <- result{c, err}
	}()
	got := <-done
	return got.c, got.err
}
