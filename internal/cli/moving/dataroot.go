package moving

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"hezi/internal/cli/endpoint"
)

// reader is `hezid docker-root`, which answers for a data root as Docker would. It is
// a process of its own because the client links no databases, and because what it
// reads may be damaged.
type reader struct {
	cmd     *exec.Cmd
	root    string       // the data root
	said    bytes.Buffer // on standard error
	mu      sync.Mutex   // guards control
	control *os.File
}

// readRoot starts a reader and waits until it has the data root open.
func readRoot(ctx context.Context, dataRoot, containerdRoot string) (*reader, error) {
	program, err := hezid()
	if err != nil {
		return nil, err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for hezid docker-root: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "control"), os.NewFile(uintptr(ends[1]), "control")
	defer theirs.Close()
	r := &reader{root: dataRoot, control: ours, cmd: exec.Command(program, "docker-root", dataRoot)}
	if containerdRoot != "" {
		r.cmd.Args = append(r.cmd.Args, containerdRoot)
	}
	r.cmd.Stderr, r.cmd.ExtraFiles = &r.said, []*os.File{theirs}
	r.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // ctrl-c is ours: what is under way is undone first
	out, err := r.cmd.StdoutPipe()
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s docker-root: %w", program, err), ours.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = r.cmd.Process.Kill() }) // it may wait for a disk
	line, err := bufio.NewReader(out).ReadString('\n')
	if line == "ready\n" && stop() {
		return r, nil
	}
	stop()
	_ = ours.Close() // a socket
	said := r.ended()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case said != nil:
		return nil, said
	}
	return nil, fmt.Errorf("%s docker-root ended without a word: %w", program, err)
}

// ended waits for the end of the process and is what it said, of a crash the first line.
func (r *reader) ended() error {
	_ = r.cmd.Wait() // its state says it
	text := strings.TrimSpace(r.said.String())
	if state := r.cmd.ProcessState; state.ExitCode() != 0 && state.ExitCode() != 1 {
		first, _, _ := strings.Cut(text, "\n")
		return fmt.Errorf("hezid docker-root has failed (%s) on %s, of which something is damaged or too large: %s", state, r.root, first)
	}
	if text == "" {
		return nil
	}
	return errors.New(text)
}

// hezid is the program beside our own, else on PATH.
func hezid() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "hezid")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	found, err := exec.LookPath("hezid")
	if err != nil {
		return "", errors.New("a data root is read by hezid, which is neither beside hezi nor on PATH: install it")
	}
	return found, nil
}

// connect is the connection to the reader.
func (r *reader) connect(userAgent string) (*endpoint.Connection, error) {
	return endpoint.Dialled("data root", r.dial).Connect(userAgent, nil)
}

// dial gives the reader one end of a new connection.
func (r *reader) dial(context.Context, string, string) (net.Conn, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(ends[0]), "connection")
	defer ours.Close() // FileConn has its own
	defer func() { _ = unix.Close(ends[1]) }()
	r.mu.Lock()
	err = unix.Sendmsg(int(r.control.Fd()), []byte{0}, unix.UnixRights(ends[1]), nil, unix.MSG_NOSIGNAL)
	r.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("hezid docker-root has ended: %w", err)
	}
	return net.FileConn(ours)
}

// close ends the reader. What it said since it was ready are its faults.
func (r *reader) close() error {
	_ = r.control.Close() // a socket
	return r.ended()
}

// source is an archive on its way, and knows whether it has ended too early.
type source struct {
	io.ReadCloser
	cut atomic.Bool
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		s.cut.Store(true)
	}
	return n, err
}

// why is the reason of a failed load of images whose archive ended too early, which
// the archive cannot say.
func (m *mover) why(ctx context.Context, refs []string, err error) error {
	if !m.stopped {
		return err
	}
	resp, askErr := m.from.Call(ctx, "GET", "/failure", url.Values{"names": refs}, nil)
	if askErr != nil {
		return err
	}
	defer resp.Body.Close()
	body, readErr := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var text string
	if readErr != nil || json.Unmarshal(body, &text) != nil || text == "" {
		return err
	}
	return errors.New(text)
}
