package initproc

import (
	"strconv"
	"strings"
	"syscall"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

const stepHook = "hook"

// createHooks has the keeper run the hooks of the host's namespaces, and runs
// those of the box's: programs of the host, whose mounts are still here.
func createHooks(s *session) error {
	if err := s.send([]byte{plan.Stands}); err != nil {
		return err
	}
	if err := s.wait(); err != nil {
		return err
	}
	umask := unix.Umask(0o022)
	defer unix.Umask(umask)
	for i := range s.plan.Hooks.Create {
		h := &s.plan.Hooks.Create[i]
		err := runHook(s, h, "createContainer", "creating", func(in, out int) (int, error) {
			return syscall.ForkExec(h.Path, h.Args, &syscall.ProcAttr{
				Dir: "/", Env: h.Env, Files: []uintptr{uintptr(in), uintptr(out), uintptr(out)}, Sys: &syscall.SysProcAttr{Setsid: true},
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// startHooks runs programs of the box's just before its own. They are as hostile
// as that is, and have its credentials and walls. Init still has capabilities of
// the host meanwhile, on threads that only execve(2) ends: it is not dumpable, so
// CAP_SYS_PTRACE is what would reach them (ptrace(2)), and no hook gets it of a box
// that has fewer than init, or that a filter or profile holds, as nothing does init.
func startHooks(s *session) error {
	for i := range s.plan.Hooks.Start {
		h := &s.plan.Hooks.Start[i]
		err := runHook(s, h, "startContainer", "created", func(in, out int) (int, error) {
			if err := executable(h.Path); err != nil {
				return 0, err
			}
			child := *s
			child.tape = nil
			p := &child.plan
			p.Tiny, p.Process.Terminal, p.Process.Args = plan.NoFD, false, h.Args
			if c := &p.Process.Caps; permitted(^c.Bounding) != 0 || confined(&p.Process) {
				for _, set := range []*uint64{&c.Bounding, &c.Permitted, &c.Effective, &c.Inheritable, &c.Ambient} {
					*set &^= 1 << unix.CAP_SYS_PTRACE
				}
			}
			child.cut(s.who, [3]int{in, out, out}, h.Path, h.Env)
			pid, errno := child.tape.fork(0, 0)
			if errno != 0 {
				return 0, errno
			}
			return pid, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// confined says whether a filter or profile is to hold the program.
func confined(p *plan.Process) bool {
	return len(p.Seccomp) > 0 || p.AppArmor != "" && p.AppArmor != "unconfined" || p.SELinux != ""
}

// maxWords bounds what of a hook's output an error has, in bytes.
const maxWords = 4096

// runHook runs one hook, which start begins with its streams, to its end.
func runHook(s *session, h *plan.Hook, where, status string, start func(in, out int) (int, error)) error {
	failed := func(err error, why string) error {
		return fail(stepHook, h.Path, err, "the "+where+" hook "+h.Path+" failed"+why)
	}
	in, err := stateFile(s, status)
	if err != nil {
		return failed(err, ": cannot make its input")
	}
	defer unix.Close(in)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return failed(err, ": cannot make its output")
	}
	defer unix.Close(pipe[0])
	pid, err := start(in, pipe[1])
	unix.Close(pipe[1])
	if err != nil {
		return failed(err, "")
	}
	words, ended, err := attend(pid, pipe[0], h.Seconds)
	if err != nil {
		return failed(err, ": cannot wait for it")
	}
	why := ""
	switch {
	case ended == nil:
		why = ": it did not end within " + strconv.FormatUint(h.Seconds, 10) + " s"
	case ended.Signaled():
		why = ": it was ended by signal " + strconv.Itoa(int(ended.Signal()))
	case ended.ExitStatus() != 0:
		why = ": exit status " + strconv.Itoa(ended.ExitStatus())
	default:
		return nil
	}
	if words := strings.TrimSpace(string(words)); words != "" {
		why += ": " + words
	}
	return failed(nil, why)
}

// stateFile is a file with what a hook is told.
func stateFile(s *session, status string) (int, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	text := s.plan.Hooks.State + `,"status":"` + status + `","pid":` + strconv.Itoa(unix.Getpid()) + "}"
	if _, err = unix.Write(fd, []byte(text)); err == nil {
		_, err = unix.Seek(fd, 0, unix.SEEK_SET)
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// attend reads what a child writes until it has ended, or for so many seconds (0:
// any time), after which it is killed and its end is nil.
func attend(pid, out int, seconds uint64) (words []byte, ended *unix.WaitStatus, err error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(pidfd)
		err = unix.SetNonblock(out, true)
	}
	buf := make([]byte, maxWords)
	read := func() (more bool) {
		n, err := unix.Read(out, buf)
		if n > 0 {
			words = append(words, buf[:min(n, maxWords-len(words))]...)
		}
		return n > 0 || err == unix.EINTR || err == unix.EAGAIN
	}
	until := now() + int64(min(seconds, 1<<31))*1e9
	late := false
	for err == nil {
		wait := -1
		if seconds > 0 {
			left := until - now()
			if late = left <= 0; late {
				break
			}
			wait = int(min(left/1e6+1, 1<<30))
		}
		list := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(out), Events: unix.POLLIN}}
		if _, err = unix.Poll(list, wait); err == unix.EINTR {
			err = nil
			continue
		}
		if err != nil {
			break
		}
		if list[1].Revents != 0 && !read() {
			out = -1 // all that had it have closed it, and poll passes over it
		}
		if list[0].Revents != 0 {
			break
		}
	}
	if late || err != nil {
		// A child that nobody has waited for: the number is its own. With all that it
		// waits for, if it leads a group.
		_ = unix.Kill(-pid, unix.SIGKILL)
		_ = unix.Kill(pid, unix.SIGKILL)
	} else if out >= 0 {
		read() // what it said last; who is left in the background is not waited for
	}
	var status unix.WaitStatus
	_, werr := unix.Wait4(pid, &status, unix.WALL, nil)
	for werr == unix.EINTR {
		_, werr = unix.Wait4(pid, &status, unix.WALL, nil)
	}
	if err == nil {
		err = werr
	}
	if !late {
		ended = &status
	}
	return words, ended, err
}

// now is in ns since the machine was started.
func now() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // this clock is always there
	return t.Nano()
}
