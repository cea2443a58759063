package dockerroot

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

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
	if err := errors.Join(bound(), renounce()); err != nil {
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
	body, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	fields := strings.Fields(string(body))
	if len(fields) < 6 {
		return fmt.Errorf("/proc/self/statm says %q", body)
	}
	pages, err := strconv.ParseUint(fields[5], 10, 64) // already taken, which is much with the race detector
	if err != nil {
		return err
	}
	limit := pages*uint64(os.Getpagesize()) + maxMemory
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("limit the memory of hezid %s: %w", Command, err)
	}
	return nil
}

// kept are the capabilities that reading needs: to read what root does not own, and
// to leave its time of access.
const kept = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER

// renounce gives up all of root's rights but those to read, in every thread. A build
// with cgo, as for the race detector, cannot, and keeps them.
func renounce() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno == unix.ENOTSUP {
		return nil
	}
	if errno != 0 {
		return os.NewSyscallError("set no_new_privs", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	left := sets[0].Permitted & kept
	sets = [2]unix.CapUserData{{Effective: left, Permitted: left}}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0); errno != 0 {
		return os.NewSyscallError("capset", errno)
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
