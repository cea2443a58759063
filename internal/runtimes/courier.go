package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// courier is one run of `hezi-keeper courier`.
type courier struct {
	pidFile string
	argv    []string
	stdio   box.Stdio
	lock    *os.File
}

// parcel is what a courier says, with the process's pidfd on it.
type parcel struct {
	PID   int    `json:",omitempty"`
	Error string `json:",omitempty"`
}

const (
	courierSocket = 3
	courierLock   = 4
)

// Courier is the argument that has hezi-keeper be one.
const Courier = "courier"

func (c *courier) run(ctx context.Context) (*box.Proc, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(ends[1]), "courier")
	defer theirs.Close()
	ours := os.NewFile(uintptr(ends[0]), "courier")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{Courier, c.pidFile}, c.argv...)...)
	cmd.Args[0] = "hezi-keeper"
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", environment(), []*os.File{theirs, c.lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // and the runtime
	// A nil *os.File is no nil interface.
	for _, f := range []struct {
		from *os.File
		to   func(*os.File)
	}{{c.stdio.Stdin, func(f *os.File) { cmd.Stdin = f }}, {c.stdio.Stdout, func(f *os.File) { cmd.Stdout = f }}, {c.stdio.Stderr, func(f *os.File) { cmd.Stderr = f }}} {
		if f.from != nil {
			f.to(f.from)
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	theirs.Close()
	buf := make([]byte, 4096)
	var p parcel
	fd, received := receiveParcel(conn.(*net.UnixConn), buf, &p)
	// Until it has ended, a process that has ended too is nobody's to reap.
	ended := cmd.Wait()
	switch {
	case received != nil && ended != nil:
		return nil, ended
	case received != nil:
		return nil, received
	case p.Error != "":
		return nil, errors.New(p.Error)
	}
	return &box.Proc{PID: p.PID, PidFD: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// receiveParcel gives the pidfd, or -1 with an error in p.
func receiveParcel(conn *net.UnixConn, buf []byte, p *parcel) (int, error) {
	clear(buf)
	fd, err := receiveFD(conn, buf)
	text := strings.TrimRight(string(buf), "\x00")
	if text == "" {
		return -1, errors.Join(err, errors.New("it ended before it was through"))
	}
	if jerr := json.Unmarshal([]byte(text), p); jerr != nil {
		return -1, jerr
	}
	if p.Error != "" {
		return -1, nil
	}
	return fd, err
}

// RunCourier is `hezi-keeper courier PIDFILE RUNTIME ARGS...`: it has a runtime make
// a process, as a child of whatever, and hands its pidfd to the keeper. It returns
// the exit code.
func RunCourier(args []string) int {
	unix.CloseOnExec(courierSocket)
	unix.CloseOnExec(courierLock)
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: hezi-keeper courier PIDFILE RUNTIME ARGS... (the keeper starts it; it is not for hands)")
		return 2
	}
	pid, fd, err := made(args[0], args[1:])
	p := parcel{PID: pid}
	if err != nil {
		p.Error = err.Error()
	}
	text, merr := json.Marshal(p)
	if merr != nil {
		return 1
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	if err := unix.Sendmsg(courierSocket, text, rights, nil, unix.MSG_NOSIGNAL); err != nil && fd >= 0 {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // the keeper is gone: nobody would hold it
	}
	return 0
}

// made runs the runtime and opens the process that it has made.
func made(pidFile string, argv []string) (pid, pidfd int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, -1, fmt.Errorf("become the reaper of orphans: %w", err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil { // it waits for no other child
		return 0, -1, err
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, -1, errors.New("the runtime did not write its pid file")
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil || pid <= 1 {
		return 0, -1, fmt.Errorf("the runtime wrote %q as its pid file", string(text[:min(len(text), 64)]))
	}
	if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return 0, -1, fmt.Errorf("process %d, which the runtime names, is not there: %w", pid, err)
	}
	return pid, pidfd, nil
}
