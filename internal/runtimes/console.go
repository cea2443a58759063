package runtimes

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// consoleListener waits for a terminal's master (--console-socket).
type consoleListener struct {
	path string
	file string
	dir  *os.File
	l    *net.UnixListener
}

type consoleResult struct {
	master *os.File
	err    error
}

// listenConsole makes the socket. Its path goes by a descriptor of the folder: a
// socket's path has 107 bytes at most (unix(7)).
func listenConsole(dir, name string) (*consoleListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	path := fmt.Sprintf("/proc/%d/fd/%d/%s.tty", os.Getpid(), rawFD(d), name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("listen for the terminal: %w", err)
	}
	l.SetUnlinkOnClose(false)
	return &consoleListener{path: path, file: filepath.Join(dir, name+".tty"), dir: d, l: l}, nil
}

func (c *consoleListener) close() {
	c.l.Close()
	c.dir.Close()
	os.Remove(c.file)
}

// receive takes one descriptor, which must be a terminal's master.
func (c *consoleListener) receive() consoleResult {
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return consoleResult{err: err}
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(changeTime)); err != nil {
		return consoleResult{err: err}
	}
	fd, err := receiveFD(conn, make([]byte, 4096))
	if err != nil {
		return consoleResult{err: fmt.Errorf("the terminal was not handed over: %w", err)}
	}
	if _, err := unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
		unix.Close(fd)
		return consoleResult{err: errors.New("what was handed over is no terminal's master")}
	}
	return consoleResult{master: os.NewFile(uintptr(fd), "console")}
}

// receiveFD reads one message with one descriptor on it (unix(7), SCM_RIGHTS).
func receiveFD(conn *net.UnixConn, buf []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*8))
	_, n, flags, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return -1, err
	}
	list, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return -1, err
	}
	fd := -1
	for i := range list {
		fds, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			continue
		}
		for _, f := range fds {
			if fd < 0 {
				fd = f
				continue
			}
			unix.Close(f)
		}
	}
	if fd < 0 || flags&unix.MSG_CTRUNC != 0 {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, errors.New("a message came without its descriptor")
	}
	unix.CloseOnExec(fd)
	return fd, nil
}

// sized gives a terminal the size that was asked for.
func sized(master *os.File, p *box.Process) error {
	if p.ConsoleHeight == 0 && p.ConsoleWidth == 0 {
		return nil
	}
	return unix.IoctlSetWinsize(rawFD(master), unix.TIOCSWINSZ, &unix.Winsize{Row: p.ConsoleHeight, Col: p.ConsoleWidth})
}
