package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Server is a name server and where it is asked from.
type Server struct {
	Addr netip.AddrPort
	// Namespace is the file of the network namespace; "": the host's.
	Namespace string
}

// dial makes a connected socket of the kernel's choice of port, which is random.
// It does not wait for a TCP connection: what is written first waits.
func dial(ctx context.Context, s Server, stream bool) (net.Conn, error) {
	network := "udp"
	if stream {
		network = "tcp"
	}
	if s.Namespace == "" {
		var d net.Dialer
		return d.DialContext(ctx, network, s.Addr.String())
	}
	kind, family := unix.SOCK_DGRAM, unix.AF_INET
	if stream {
		kind = unix.SOCK_STREAM
	}
	a := s.Addr.Addr().Unmap()
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err := socketIn(s.Namespace, family, kind)
	if err != nil {
		return nil, err
	}
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(s.Addr.Port()), Addr: a.As16(), ZoneId: zoneOf(fd, a)}
	if a.Is4() {
		to = &unix.SockaddrInet4{Port: int(s.Addr.Port()), Addr: a.As4()}
	}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect to the name server %s: %w", s.Addr, err)
	}
	f := os.NewFile(uintptr(fd), "name server")
	defer f.Close()
	return net.FileConn(f) // of a copy
}

// zoneOf is the interface that an address names, where a socket is; 0 if there is none.
func zoneOf(fd int, a netip.Addr) uint32 {
	zone := a.Zone()
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return uint32(n)
	}
	r, err := unix.NewIfreq(zone)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return 0
	}
	return r.Uint32()
}

// socketIn makes a socket that belongs to the network namespace at path.
func socketIn(path string, family, kind int) (fd int, err error) {
	ns, err := os.Open(path)
	if err != nil {
		return -1, fmt.Errorf("the container's network namespace: %w", err)
	}
	defer ns.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("this thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("enter the container's network namespace: %w", err)
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread is not unlocked: it ends with its goroutine, in the wrong place.
		if err == nil {
			_ = unix.Close(fd)
		}
		return -1, fmt.Errorf("leave the container's network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	if err != nil {
		return -1, fmt.Errorf("make a socket in the container's network namespace: %w", err)
	}
	return fd, nil
}
