package ports

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// bindAsked holds a port that was asked for, and names whoever has it. Only if
// nothing but closed connections in TIME_WAIT stands in the way is SO_REUSEADDR
// set, which lets a program that sets it too have the port.
func bindAsked(addr netip.Addr, proto uint8, port uint16) (int, error) {
	fd, err := bind(addr, proto, port, false)
	if !errors.Is(err, unix.EADDRINUSE) {
		return fd, bindError(addr, proto, port, "", err)
	}
	who, live := list(proto, port).occupant(addr, proto, port)
	if proto == unix.IPPROTO_TCP && !live {
		if fd, err = bind(addr, proto, port, true); err == nil {
			return fd, nil
		}
	}
	return -1, bindError(addr, proto, port, who, err)
}

// bindAny holds a port that is as good as another: whoever has it is not looked for.
func bindAny(addr netip.Addr, proto uint8, port uint16) (int, error) {
	fd, err := bind(addr, proto, port, false)
	return fd, bindError(addr, proto, port, "", err)
}

// probe finds out whether the ports from first to last could be bound. The
// kernel's list of sockets spares the ports that nobody has; where the list does
// not show a socket that is only bound, every port is tried.
func probe(addr netip.Addr, proto uint8, first, last uint16) error {
	mark, err := bindAsked(addr, proto, first)
	if err != nil {
		return err
	}
	if mark < 0 {
		return nil
	}
	defer unix.Close(mark)
	var st unix.Stat_t
	if err := unix.Fstat(mark, &st); err != nil {
		return fmt.Errorf("look at a socket: %w", err)
	}
	sockets := list(proto, 0)
	return free(addr, proto, first, last, sockets, sockets.has(first, st.Ino))
}

// free tries the ports after first; those that a complete list does not have are
// not tried.
func free(addr netip.Addr, proto uint8, first, last uint16, known sockets, complete bool) error {
	for p := int(first) + 1; p <= int(last); p++ {
		port := uint16(p)
		if complete && !known.live(addr, port) {
			continue
		}
		fd, err := bind(addr, proto, port, false)
		if err == nil {
			if err := unix.Close(fd); err != nil {
				return fmt.Errorf("close a socket: %w", err)
			}
			continue
		}
		who := ""
		if errors.Is(err, unix.EADDRINUSE) {
			var live bool
			if who, live = known.occupant(addr, proto, port); proto == unix.IPPROTO_TCP && !live {
				continue // what is in TIME_WAIT keeps nobody from it
			}
		}
		return bindError(addr, proto, port, who, err)
	}
	return nil
}

func bindError(addr netip.Addr, proto uint8, port uint16, who string, err error) error {
	if err == nil {
		return nil
	}
	where := fmt.Sprintf("failed to bind host port %s/%s", netip.AddrPortFrom(addr, port), ProtoName(proto))
	if errors.Is(err, unix.EADDRINUSE) {
		return errdefs.ErrConflict.WithMessage(where + ": address already in use" + who)
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return errdefs.ErrInvalidArgument.WithMessage(where + ": cannot assign requested address (no interface of this host has it)")
	}
	return fmt.Errorf("%s: %w", where, err)
}

// Place is what a socket is bound to.
type Place struct {
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

// PlacesOf sockets that were kept; what is none of ours is closed.
func PlacesOf(fds []int) map[Place]int {
	all := map[Place]int{}
	for _, fd := range fds {
		at, err := placeOf(fd)
		if _, twice := all[at]; err != nil || twice {
			_ = unix.Close(fd)
			continue
		}
		all[at] = fd
	}
	return all
}

// placeOf a socket of IPv4 or IPv6.
func placeOf(fd int) (p Place, err error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return p, fmt.Errorf("a socket that was kept: %w", err)
	}
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return p, fmt.Errorf("a socket that was kept: %w", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return Place{netip.AddrFrom4(a.Addr), uint8(proto), uint16(a.Port)}, nil
	case *unix.SockaddrInet6:
		return Place{netip.AddrFrom16(a.Addr), uint8(proto), uint16(a.Port)}, nil
	}
	return p, fmt.Errorf("a socket that was kept is of another kind: %T", sa)
}

// bind makes a socket that has the port and does not listen. It blocks: Go's poller, which
// takes only those that do not, would wake every process that keeps a copy. -1 without an error is
// a port of a protocol that the kernel does not speak: nobody else can have it.
func bind(addr netip.Addr, proto uint8, port uint16, reuse bool) (int, error) {
	typ := unix.SOCK_STREAM
	if proto == unix.IPPROTO_UDP {
		typ = unix.SOCK_DGRAM
	}
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if addr.Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: addr.As16()}
	} else {
		to = &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, int(proto))
	if proto == unix.IPPROTO_SCTP && errors.Is(err, unix.EPROTONOSUPPORT) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if addr.Is6() { // IPv4 has a socket of its own
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil && reuse {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set up a socket: %w", err)
	}
	if err := unix.Bind(fd, to); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
