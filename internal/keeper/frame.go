package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// MaxFrame is the longest message in bytes; MaxFiles the most descriptors on one.
const (
	MaxFrame = 16 << 20
	MaxFiles = 32
)

const (
	frameMagic  = 0x485a4b31 // "HZK1"
	frameHeader = 8
)

// WriteFrame sends v as one message with fds on it. The caller keeps fds.
func WriteFrame(c *net.UnixConn, v any, fds ...int) error { return writeFrame(c, v, nil, fds) }

// writeFrame is WriteFrame with a tail after the message, for ReadTail.
func writeFrame(c *net.UnixConn, v any, tail []byte, fds []int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("a message of %d bytes to the keeper is longer than the limit of %d", len(body), MaxFrame)
	}
	if len(fds) > MaxFiles {
		return fmt.Errorf("a message with %d descriptors is over the limit of %d", len(fds), MaxFiles)
	}
	buf := make([]byte, frameHeader, frameHeader+len(body)+len(tail))
	binary.BigEndian.PutUint32(buf, frameMagic)
	binary.BigEndian.PutUint32(buf[4:], uint32(len(body)))
	n := 0
	if len(fds) > 0 {
		if n, _, err = c.WriteMsgUnix(buf, unix.UnixRights(fds...), nil); err != nil {
			return err
		}
	}
	// The rights went with the first byte.
	_, err = c.Write(append(append(buf, body...), tail...)[n:])
	return err
}

// MaxTail is the longest tail of a message in bytes.
const MaxTail = 1 << 20

// ReadTail receives what follows a message that announced n bytes of it.
func ReadTail(c *net.UnixConn, n int) ([]byte, error) {
	if n < 0 || n > MaxTail {
		return nil, fmt.Errorf("a message with %d bytes behind it is over the limit of %d", n, MaxTail)
	}
	if n == 0 {
		return nil, nil
	}
	tail := make([]byte, n)
	_, err := io.ReadFull(c, tail)
	return tail, err
}

// ErrFilesLost: a message came without its descriptors. It was read, and the next
// one can be.
var ErrFilesLost = errors.New("descriptors of a message were lost: the process has reached its limit of open files (raise LimitNOFILE of hezi's service, or fs.file-max)")

// ReadFrame receives one message into v and returns the descriptors on it
// (close-on-exec), which the caller owns. Error: ErrFilesLost, with v read.
func ReadFrame(c *net.UnixConn, v any) ([]int, error) {
	var head [frameHeader]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	fds, lost, err := readHeader(c, head[:], oob)
	if err != nil {
		CloseFDs(fds)
		return nil, err
	}
	if binary.BigEndian.Uint32(head[:]) != frameMagic {
		CloseFDs(fds)
		return nil, errors.New("a message between engine and keeper has a wrong start: one side is of another version")
	}
	n := binary.BigEndian.Uint32(head[4:])
	if n > MaxFrame {
		CloseFDs(fds)
		return nil, fmt.Errorf("a message of %d bytes is longer than the limit of %d", n, MaxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c, body); err != nil {
		CloseFDs(fds)
		return nil, err
	}
	if err := json.Unmarshal(body, v); err != nil {
		CloseFDs(fds)
		return nil, fmt.Errorf("message between engine and keeper: %w", err)
	}
	if lost {
		CloseFDs(fds)
		return nil, ErrFilesLost
	}
	return fds, nil
}

func readHeader(c *net.UnixConn, head, oob []byte) (fds []int, lost bool, _ error) {
	for got := 0; got < len(head); {
		n, oobn, flags, _, err := c.ReadMsgUnix(head[got:], oob)
		if oobn > 0 {
			fds = append(fds, parseRights(oob[:oobn])...)
		}
		lost = lost || flags&unix.MSG_CTRUNC != 0
		if err != nil {
			return fds, lost, err
		}
		if n == 0 {
			if got == 0 {
				return fds, lost, io.EOF
			}
			return fds, lost, io.ErrUnexpectedEOF
		}
		got += n
	}
	return fds, lost, nil
}

func parseRights(oob []byte) []int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range msgs {
		f, err := unix.ParseUnixRights(&msgs[i])
		if err == nil {
			fds = append(fds, f...)
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds
}

// CloseFDs closes what ReadFrame returned.
func CloseFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// FileConn makes a *net.UnixConn of a connected stream socket and takes fd over.
func FileConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("the descriptor handed over is no socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("the descriptor handed over is no unix socket")
	}
	return u, nil
}

// SocketPair returns two connected unix stream sockets, close-on-exec.
func SocketPair() (a, b *net.UnixConn, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	if a, err = FileConn(p[0]); err != nil {
		unix.Close(p[1])
		return nil, nil, err
	}
	if b, err = FileConn(p[1]); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}
