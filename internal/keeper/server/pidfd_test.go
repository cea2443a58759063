package server

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestClosedPidfd: the number of a pidfd that is closed may be another process's by
// now: it gets no signal, and the holder no copy.
func TestClosedPidfd(t *testing.T) {
	other := exec.Command("sleep", "100")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	open := func() *os.File {
		fd, err := unix.PidfdOpen(other.Process.Pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "pidfd")
	}
	p := newProcess(nil, record{ContainerID: "c"})
	p.pidfd = open()
	number := rawFD(p.pidfd)
	if ended(p.pidfd) {
		t.Error("a process that runs has ended")
	}
	if names, fds, err := p.copies(); err != nil || len(names) != 1 || fds[0] == number || unix.Close(fds[0]) != nil {
		t.Errorf("copies: %v %v %v", names, fds, err)
	}
	p.pidfd.Close()
	again := open()
	defer again.Close()
	if rawFD(again) != number {
		t.Logf("the number %d was not used again", number)
	}
	if err := p.signal(unix.SIGKILL); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("signal: %v", err)
	}
	if names, _, err := p.copies(); err != nil || len(names) != 0 {
		t.Errorf("copies: %v %v", names, err)
	}
	if !ended(p.pidfd) {
		t.Error("a closed pidfd is one of a process that runs")
	}
	if err := using(p.pidfd, func(int) error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("using: %v", err)
	}
	if err := other.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("another process: %v", err)
	}
}
