package plan

import (
	"strings"
	"syscall"
)

// Reason is the text of an error that is the engine's. Docker's client takes
// three of the kernel's texts for words about the program, and would end with
// 127 or 126 instead of 125.
func Reason(err error) string {
	return strings.NewReplacer(syscall.ENOENT.Error(), "it does not exist", syscall.EACCES.Error(), "access is denied",
		syscall.EISDIR.Error(), "a directory is there",
		syscall.EMFILE.Error(), "the engine has as many files open as its limit allows: stop containers, or start hezid with a higher one (LimitNOFILE, ulimit -n)").Replace(err.Error())
}

// Explain completes an error that came with an errno from the tape: its text,
// and for exec the exit code and what a person can do.
func (e *Error) Explain(errno syscall.Errno) {
	if errno == 0 {
		return
	}
	e.Errno = int(errno)
	if e.Step != "exec" {
		e.Message += ": " + Reason(errno)
		return
	}
	e.Message += ": " + errno.Error()
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
