package dockerroot

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// Command is the word by which hezid runs Run: hezid docker-root DATAROOT [CONTAINERD-ROOT].
const Command = "docker-root"

// control is the descriptor by which connections come. Its end is the end.
const control = 3

// Run answers for a data root until who started it is gone, and returns the exit code.
// It says "ready" when the root is open.
func Run(args []string, version string, stdout, stderr io.Writer) int {
	if err := run(args, version, stdout); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func run(args []string, version string, stdout io.Writer) error {
	if kind, err := unix.GetsockoptInt(control, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET || len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("hezid %s is started by: hezi system import-docker --data-root FOLDER", Command)
	}
	go leave()
	if err := bound(); err != nil {
		return err
	}
	args = append(args, "")
	root, err := Open(args[0], args[1])
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := fmt.Fprintln(stdout, "ready"); err != nil {
		return err
	}
	server := http.Server{Handler: root.Handler(version), ReadHeaderTimeout: time.Minute}
	if err := server.Serve(passed{}); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// leave ends the process, and with it Docker's lock, when who started it is gone,
// whatever is under way.
func leave() {
	for {
		fds := []unix.PollFd{{Fd: control}}
		if _, err := unix.Poll(fds, -1); err == nil && fds[0].Revents != 0 || err != nil && err != unix.EINTR {
			os.Exit(0)
		}
	}
}

const (
	maxMemory = 1 << 30  // bytes
	maxStack  = 64 << 20 // bytes, of one goroutine
)

// bound limits memory: there are databases that never end, and only this process is
// to end by them.
func bound() error {
	debug.SetMaxStack(maxStack)
	debug.SetMemoryLimit(maxMemory * 3 / 4)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: maxMemory, Max: maxMemory}); err != nil {
		return fmt.Errorf("limit the memory of hezid %s: %w", Command, err)
	}
	return nil
}

// passed is a listener whose connections are sent over the control socket, so that
// nobody else can open one.
type passed struct{}

func (passed) Accept() (net.Conn, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(control, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(control, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 && oobn == 0 {
		return nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("no connection came"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("no connection came"), err)
	}
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close()
	return net.FileConn(f)
}

func (passed) Close() error { return nil }

func (passed) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
