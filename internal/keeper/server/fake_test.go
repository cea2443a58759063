package server

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// fakeRuntime starts plain host processes with the same streams and pidfds.
type fakeRuntime struct{}

var _ Runtime = fakeRuntime{}

func (fakeRuntime) Leave(map[string]string) {}

func (fakeRuntime) Prepare(string, *box.Users, *box.Namespaces, bool) (int, error) {
	return 0, errors.New("not faked")
}
func (fakeRuntime) Close() error { return nil }

func (f fakeRuntime) Start(ctx context.Context, spec *box.Spec, stdio box.Stdio) (*box.Proc, error) {
	return f.run(&spec.Process, stdio)
}

func (f fakeRuntime) Exec(ctx context.Context, pid int, pidfd *os.File, cg map[string]string, p *box.Process, stdio box.Stdio) (*box.Proc, error) {
	return f.run(p, stdio)
}

func (fakeRuntime) run(p *box.Process, stdio box.Stdio) (*box.Proc, error) {
	path, err := exec.LookPath(p.Args[0])
	if err != nil {
		return nil, &box.Error{Step: box.StepExec, Subject: p.Args[0], Message: "exec: \"" + p.Args[0] + "\": executable file not found in $PATH", Errno: int(unix.ENOENT), ExitCode: 127}
	}
	var fd int
	attr := &os.ProcAttr{Env: append(os.Environ(), p.Env...), Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &fd}}
	var master *os.File
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	if p.Terminal {
		m, s, err := openPTY()
		if err != nil {
			return nil, err
		}
		defer s.Close()
		master = m
		attr.Files = []*os.File{s, s, s}
		attr.Sys.Setctty = true
	} else {
		for _, f := range []*os.File{stdio.Stdin, stdio.Stdout, stdio.Stderr} {
			if f == nil {
				f = null
			}
			attr.Files = append(attr.Files, f)
		}
	}
	proc, err := os.StartProcess(path, p.Args, attr)
	if err != nil {
		return nil, err
	}
	defer proc.Release()
	return &box.Proc{PID: proc.Pid, PidFD: os.NewFile(uintptr(fd), "pidfd"), Console: master}, nil
}

func openPTY() (*os.File, *os.File, error) {
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(rawFD(m), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(rawFD(m), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	s, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	return m, s, err
}

// TestMain makes the test's binary a hezi-keeper, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "hold", "serve", "check-state":
			c := Command{Version: "test", NewRuntime: func(string) (Runtime, error) { return fakeRuntime{}, nil }, OpenCgroup: OpenCgroupDirs}
			os.Exit(c.Run(os.Args[1:]))
		}
	}
	os.Exit(m.Run())
}
