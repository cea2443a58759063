package box

import (
	"encoding/binary"
	"io"
	"os"
	"strconv"
	"syscall"

	"hezi/internal/box/initbin"
	"hezi/internal/box/initproc"
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// enterSteps are hezi-enter's by their numbers.
var enterSteps = map[uint32]string{
	1: "cannot join the other container's user namespace", 2: "cannot become root in the other container's user namespace",
	3: "cannot join the pid namespace", 4: "cannot make new namespaces in the other container's user namespace",
	5: "cannot start a process in the other container's user namespace", 6: "cannot start init in the other container's user namespace",
}

// spawnInUserNamespace starts init in a user namespace that is there, by
// hezi-enter, which leaves it as a child of this process.
func (r *Runtime) spawnInUserNamespace(b birth) (*child, error) {
	r.enterOnce.Do(func() { r.enter, r.enterErr = initbin.Enter() })
	if r.enterErr != nil {
		return nil, stepError(StepNamespace, "hezi-enter", nil, r.enterErr.Error())
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, stepError(StepNamespace, "", err, "cannot make a socket for init")
	}
	c := &child{conn: os.NewFile(uintptr(ends[0]), "init")}
	theirs := os.NewFile(uintptr(ends[1]), "init's")
	defer theirs.Close()
	if err := unix.SetNonblock(ends[1], false); err != nil {
		c.conn.Close()
		return nil, err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		c.conn.Close()
		return nil, stepError(StepDevice, "/dev/null", err, "cannot open the host's /dev/null")
	}
	defer unix.Close(null)
	pidNS, pidFD := "0", null
	if b.pidNS >= 0 {
		pidNS, pidFD = "1", b.pidNS
	}
	// What is executed is among them for the reason that spawn gives.
	files := []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(ends[1]), uintptr(rawFD(r.init)), uintptr(b.userNS), uintptr(pidFD), uintptr(rawFD(r.enter))}
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{initproc.ModeVariable + "=" + b.mode, "GOGC=off", "GOMAXPROCS=1"}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if b.cgroupFD >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, b.cgroupFD
	}
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(rawFD(r.enter)), []string{"hezi-enter", strconv.Itoa(int(b.flags)), pidNS}, attr)
	if err != nil {
		c.conn.Close()
		return nil, stepError(StepNamespace, "user", err, "cannot start hezi-enter")
	}
	theirs.Close() // or the end of one that dies without a word would be waited for in vain
	text, _, err := c.receive()
	(&child{pid: pid}).reap() // its word is its last
	if err == nil && len(text) == 9 && text[0] == plan.Child {
		c.pid = int(binary.LittleEndian.Uint32(text[1:]))
		if c.pidfd, err = openPidfd(c.pid); err == nil {
			return c, nil
		}
		_ = unix.Kill(c.pid, unix.SIGKILL)
		c.kill()
		return nil, err
	}
	c.conn.Close()
	if err == nil && len(text) == 9 {
		step := binary.LittleEndian.Uint32(text[1:])
		return nil, stepError(StepNamespace, "user", unix.Errno(binary.LittleEndian.Uint32(text[5:])), enterSteps[step])
	}
	if err == io.EOF {
		err = nil
	}
	return nil, stepError(StepNamespace, "user", err, "hezi-enter ended without a word")
}
