package plan

import "syscall"

// Explain completes an error that came with an errno from the tape: its text,
// and for exec the exit code and what a person can do.
func (e *Error) Explain(errno syscall.Errno) {
	if errno == 0 {
		return
	}
	e.Errno = int(errno)
	e.Message += ": " + errno.Error()
	if e.Step != "exec" {
		return
	}
	e.ExitCode = 126
	switch errno {
	case syscall.ENOENT:
		e.ExitCode = 127
		e.Message += ": the file is there, but its interpreter or dynamic loader is not in the image"
	case syscall.ENOEXEC:
		e.Message += ": it is built for another architecture, or is a script without a first line such as #!/bin/sh"
	case syscall.EAGAIN:
		e.Message += ": the user has as many processes as its limit allows"
	case syscall.E2BIG:
		e.Message += ": the arguments and the environment are too long together"
	}
}
