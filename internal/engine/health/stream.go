package health

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// streamExit begins the frame that holds the exit code (keeper.StreamExit).
const streamExit = 4

// ErrCutOff is of a check whose answer was lost; it says nothing of the container.
var ErrCutOff = errors.New("the keeper was replaced while a health check ran")

// Read reads the framed stream of a check until the exit code. Error:
// ErrCutOff when it ends before.
func Read(in *bufio.Reader, out io.Writer) (code int, err error) {
	for {
		var head [8]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
				err = ErrCutOff
			}
			return 0, err
		}
		size := int64(binary.BigEndian.Uint32(head[4:]))
		if head[0] == streamExit && size == 4 {
			var b [4]byte
			_, err := io.ReadFull(in, b[:])
			return int(binary.BigEndian.Uint32(b[:])), err
		}
		if _, err := io.CopyN(out, in, size); err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrCutOff
			}
			return 0, err
		}
	}
}

// Pipe is a socket whose other end the keeper writes a check's output to.
func Pipe() (ours, theirs *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("a socket for a health check: %w", err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "check")
		conn, e := net.FileConn(f)
		err = errors.Join(err, e, f.Close())
		if e == nil {
			conns[i] = conn.(*net.UnixConn)
		}
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, nil, err
	}
	return conns[0], conns[1], nil
}
