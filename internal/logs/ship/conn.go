package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a receiver's slowness, where its options have none.
const (
	dialTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
)

// errClosed: the receiver has ended the connection.
var errClosed = errors.New("the receiver closed the connection")

// stream is a connection of bytes, whose end by the receiver is noticed before
// more is written: a write to a receiver that is gone succeeds once.
type stream struct {
	net.Conn
	raw     net.Conn // below TLS
	timeout time.Duration
}

// dial connects; conf is for TLS, else nil.
func dial(ctx context.Context, proto, address string, conf *tls.Config, timeout time.Duration) (*stream, error) {
	if timeout <= 0 {
		timeout = writeTimeout
	}
	raw, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, proto, address)
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: raw, raw: raw, timeout: timeout}
	if conf == nil {
		return s, nil
	}
	if conf.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		conf = conf.Clone()
		conf.ServerName = host
	}
	secure := tls.Client(raw, conf)
	hctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := secure.HandshakeContext(hctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	s.Conn = secure
	return s, nil
}

// send writes b and waits until the receiver's system has it.
func (s *stream) send(ctx context.Context, b []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = s.raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.alive(); err != nil {
		return err
	}
	if err := s.raw.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, err := s.Write(b); err != nil {
		return err
	}
	return s.delivered(ctx)
}

func (s *stream) control(f func(fd int) error) error {
	rc, err := s.raw.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = rc.Control(func(fd uintptr) { ferr = f(int(fd)) })
	return errors.Join(err, ferr)
}

// alive fails when the receiver has closed its side.
func (s *stream) alive() error {
	return s.control(func(fd int) error {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		if err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0 {
			return errClosed
		}
		if err == unix.EINTR {
			return nil
		}
		return err
	})
}

// delivered waits until nothing that was sent is without an acknowledgement by the
// receiver's system (tcp(7), SIOCOUTQ; unix(7): until it is read).
func (s *stream) delivered(ctx context.Context) error {
	deadline := time.Now().Add(s.timeout)
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		left := 0
		err := s.control(func(fd int) (err error) {
			left, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
			return err
		})
		if err != nil || left == 0 {
			return err
		}
		if err := s.alive(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the receiver has not taken %d bytes in %v", left, s.timeout)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func tooLarge(err error) bool { return errors.Is(err, unix.EMSGSIZE) }
