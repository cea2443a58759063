// Package probe asks a program in a network namespace how it is, by HTTP or TCP,
// without a program of its own there. All that is answered is hostile: it is
// bounded in size and time, and goes nowhere but into a text.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxBody    = 4 << 10  // bytes of a body that are read
	maxHeaders = 16 << 10 // bytes of headers
)

// Prober asks. The zero value is ready.
type Prober struct{}

// HTTP gets a URL whose host is localhost or an address. Any status from 200 to
// 399 is well; redirects are not followed, certificates not verified: what is
// asked is whether the program answers. The text is the status and the body's
// beginning, or what went wrong.
func (Prober) HTTP(ctx context.Context, ns *os.File, url string) (ok bool, text string) {
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, ns, addr) },
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		DisableKeepAlives:      true,
		DisableCompression:     true, // what is small may become large
		MaxResponseHeaderBytes: maxHeaders,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err.Error()
	}
	req.Header.Set("User-Agent", "Hezi-Healthcheck")
	req.Header.Set("Accept", "*/*")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false, fmt.Sprintf("Get %q: %v", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	text = "HTTP " + resp.Status
	if len(body) > 0 {
		text += ": " + string(body)
	}
	if err != nil {
		return false, text + ": " + err.Error()
	}
	return resp.StatusCode >= 200 && resp.StatusCode < 400, text
}

// TCP connects, and hangs up.
func (Prober) TCP(ctx context.Context, ns *os.File, addr string) (ok bool, text string) {
	conn, err := dial(ctx, ns, addr)
	if err != nil {
		return false, err.Error()
	}
	if err := conn.Close(); err != nil {
		return false, err.Error()
	}
	return true, "connected to " + addr
}

// dial connects from inside a network namespace. localhost is 127.0.0.1, and
// [::1] where nobody answers there.
func dial(ctx context.Context, ns *os.File, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	if host != "localhost" {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return nil, err
		}
		return connect(ctx, ns, netip.AddrPortFrom(ip, uint16(n)))
	}
	conn, err := connect(ctx, ns, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(n)))
	if errors.Is(err, unix.ECONNREFUSED) {
		if six, e := connect(ctx, ns, netip.AddrPortFrom(netip.IPv6Loopback(), uint16(n))); e == nil {
			return six, nil
		}
	}
	return conn, err
}

func connect(ctx context.Context, ns *os.File, to netip.AddrPort) (net.Conn, error) {
	failed := func(err error) error { return fmt.Errorf("dial tcp %s: %w", to, err) }
	fd, err := socketIn(ns, to.Addr().Is4())
	if err != nil {
		return nil, failed(err)
	}
	f := os.NewFile(uintptr(fd), "probe") // non-blocking, so of the netpoller
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var addr unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		addr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, failed(err)
	}
	begun := false
	var result error
	err = raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			result = unix.Connect(int(fd), addr)
			return result != unix.EINPROGRESS
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if result = err; err == nil && code != 0 {
			result = unix.Errno(code)
		}
		if result != nil {
			return true
		}
		_, err = unix.Getpeername(int(fd)) // the poller may also wake us for nothing
		return err == nil
	})
	if ctx.Err() != nil {
		return nil, failed(ctx.Err())
	}
	if err := errors.Join(err, result); err != nil {
		return nil, failed(err)
	}
	return net.FileConn(f)
}

// socketIn makes a socket in the namespace: it stays there. The thread returns
// before it does anything else, or ends.
func socketIn(ns *os.File, four bool) (fd int, err error) {
	family := unix.AF_INET6
	if four {
		family = unix.AF_INET
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("open the host's network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("enter the container's network namespace: %w", err)
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		if err == nil {
			unix.Close(fd)
		}
		// The thread stays locked: it ends with this goroutine, a check's own.
		return -1, fmt.Errorf("return to the host's network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	return fd, err
}

// OpenNamespace opens the network namespace of a process, if that is in the
// cgroup of the container with this id: its number may have become another's.
func (Prober) OpenNamespace(pid int, containerID string) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("open the container's network namespace: %w", err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err == nil && !strings.Contains(string(b), containerID) {
		err = errors.New("the container has ended")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
