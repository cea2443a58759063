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
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"hezi/internal/cli/endpoint"
)

// reader is `hezid docker-root`, which answers for a data root as Docker would. It is
// a process of its own because the client links no databases, and because what it
// reads may be damaged.
type reader struct {
	cmd     *exec.Cmd
	said    bytes.Buffer // on standard error
	mu      sync.Mutex   // guards control
	control *os.File
}

// readRoot starts a reader and waits until it has the data root open.
func readRoot(dataRoot, containerdRoot string) (*reader, error) {
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
	r := &reader{control: ours, cmd: exec.Command(program, "docker-root", dataRoot)}
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
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		_, _ = ours.Close(), r.cmd.Wait() // it says itself why it ended
		if text := strings.TrimSpace(r.said.String()); text != "" {
			return nil, errors.New(text)
		}
		return nil, fmt.Errorf("%s docker-root ended without a word: %w", program, err)
	}
	return r, nil
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
	_, _ = r.control.Close(), r.cmd.Wait() // its end is told by what it said
	if text := strings.TrimSpace(r.said.String()); text != "" {
		return fmt.Errorf("hezid docker-root: %s", text)
	}
	return nil
}

// why is the reason of a failed load, if it is the source's: an archive that ends too
// early cannot say it.
func (m *mover) why(ctx context.Context, err error) error {
	if !m.stopped {
		return err
	}
	resp, askErr := m.from.Call(ctx, "GET", "/failure", nil, nil)
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
