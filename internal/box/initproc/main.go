package initproc

import (
	"runtime"
	"syscall"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// ModeVariable is the environment variable that holds the mode. Init links
// neither os (which would raise its limit of descriptors, and so the program's)
// nor runtime/debug: the keeper sets GOGC=off beside it.
const ModeVariable = "HEZI_INIT"

// Modes of init.
const (
	ModeStart = "start" // in new namespaces: leave the host's mounts at once
	ModeUser  = "user"  // the same with a user namespace: the host's mounts are needed for new ones of proc and sysfs
	ModeJoin  = "join"
	// ModeStandby is a join that waits for its plan.
	ModeStandby = "standby"
	// ModeBeside is a start in a mount namespace that others are in.
	ModeBeside = "beside"
)

// Main runs init and never returns.
func Main() {
	runtime.LockOSThread()
	defaultSignals()
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.CloseRange(4, ^uint(0), 0)
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	mode, _ := syscall.Getenv(ModeVariable)
	s := &session{}
	if err := s.run(mode); err != nil {
		s.report(err)
		unix.Exit(1)
	}
	unix.Exit(0)
}

func (s *session) run(mode string) error {
	switch mode {
	case ModeStandby:
		s.tape, s.text = rehearse()
	case ModeStart:
		if err := s.leaveHost(); err != nil {
			return err
		}
	}
	if err := s.await(); err != nil {
		return err
	}
	if s.plan.Join {
		return s.join()
	}
	return s.start()
}

func fail(step, subject string, err error, message string) error {
	e := &plan.Error{Step: step, Subject: subject, Message: message, ExitCode: 125}
	if errno, ok := err.(unix.Errno); ok {
		e.Errno = int(errno)
	}
	if err != nil {
		e.Message += ": " + plan.Reason(err)
	}
	return e
}
