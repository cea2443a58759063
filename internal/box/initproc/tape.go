package initproc

import (
	"unsafe"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// A tape is a list of system calls prepared beforehand.
type tape []call

type call struct {
	nr     uintptr
	arg    [6]uintptr
	report []byte // a Failed packet; its errno is filled in
	lax    bool   // errors are ignored
	keep   any    // what arg points to
}

func (t *tape) add(step, subject, message string, nr uintptr, arg ...uintptr) *call {
	c := call{nr: nr, report: failure(&plan.Error{Step: step, Subject: subject, Message: message, ExitCode: 125})}
	copy(c.arg[:], arg)
	*t = append(*t, c)
	return &(*t)[len(*t)-1]
}

// play makes the calls; it returns only when one failed. It may run in the
// child of a raw fork: no allocation, no stack growth, no scheduling.
//
//go:norace
//go:nosplit
func (t tape) play() {
	for i := range t {
		c := &t[i]
		_, _, errno := unix.RawSyscall6(c.nr, c.arg[0], c.arg[1], c.arg[2], c.arg[3], c.arg[4], c.arg[5])
		if errno != 0 && !c.lax {
			c.report[1] = byte(errno)
			c.report[2] = byte(errno >> 8)
			unix.RawSyscall6(unix.SYS_SENDTO, socket, uintptr(unsafe.Pointer(&c.report[0])), uintptr(len(c.report)), unix.MSG_NOSIGNAL, 0, 0)
			return
		}
	}
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// fork plays the tape in a new child of this process's parent. The child is a
// copy (no CLONE_VM), so nothing inside shares memory with this process.
//
//go:norace
func (t tape) fork(flags uint64, cgroup int) (int, unix.Errno) {
	args := cloneArgs{flags: flags, cgroup: uint64(cgroup)} // with CLONE_PARENT the exit signal is inherited
	size := uintptr(unsafe.Sizeof(args))
	if flags&unix.CLONE_INTO_CGROUP == 0 {
		args.cgroup = 0
	}
	beforeFork()
	pid, errno := rawFork(&args, size, t)
	afterFork()
	return int(pid), errno
}

type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal     uint64
	stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

//go:norace
//go:noinline
//go:nosplit
func rawFork(args *cloneArgs, size uintptr, t tape) (uintptr, unix.Errno) {
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), size, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	afterForkInChild()
	t.play()
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}
