package initproc

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's structure (rt_sigaction(2)), large enough for
// every architecture.
type sigaction struct {
	handler uintptr
	rest    [3]uint64
}

// defaultSignals gives every signal that the keeper's parents ignored its
// default again: execve(2) would hand that on, and ctrl-c would do nothing in
// the box.
func defaultSignals() {
	const ignore, last, setSize = 1, 64, 8 // SIG_IGN, SIGRTMAX, sizeof(sigset_t)
	for sig := uintptr(1); sig <= last; sig++ {
		var now sigaction
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)), setSize, 0, 0)
		if errno != 0 || now.handler != ignore {
			continue
		}
		var standard sigaction
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, setSize, 0, 0) // KILL and STOP cannot be ignored
	}
}
