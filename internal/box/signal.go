package box

import "golang.org/x/sys/unix"

// Signal sends a signal to the process. Error: unix.ESRCH when it has ended.
func (p *Proc) Signal(s unix.Signal) error {
	return unix.PidfdSendSignal(rawFD(p.PidFD), s, nil, 0)
}

// Kill is Signal with SIGKILL.
func (p *Proc) Kill() error { return p.Signal(unix.SIGKILL) }
