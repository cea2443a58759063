package relay

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// backlog of a socket: who connects while no relay runs waits there.
const backlog = 1024

// loadDestination is where a word of an IPv6 packet's destination is, for a socket's
// filter (linux/filter.h SKF_NET_OFF, RFC 8200 section 3).
const loadDestination = 0xfff00000 + 24

// Listen readies a socket that holds a port of TCP or UDP of IPv6: from now on it takes
// what is sent to ::1, and that alone, also while the firewall's rules are flushed.
func Listen(fd int) error {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("listen at ::1: %w", err)
	}
	if a, ok := addressOf(at); !ok || !a.Addr().IsLoopback() { // a filter costs a start 2 ms: the kernel compiles it
		if err := takeOnlyLoopback(fd); err != nil {
			return err
		}
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil && kind == unix.SOCK_STREAM {
		// Its closed connections have it too, or in TIME_WAIT they would keep the port.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return fmt.Errorf("listen at ::1: %w", err)
	}
	return nil
}

// takeOnlyLoopback has a socket that is bound to every address take what is sent to ::1.
func takeOnlyLoopback(fd int) error {
	var filter []unix.SockFilter
	for i, want := range []uint32{0, 0, 0, 1} {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: loadDestination + uint32(4*i)},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: want, Jf: uint8(2*(3-i) + 1)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("have a socket take what is sent to ::1 alone: %w", err)
	}
	return nil
}

// inspect says what a socket is, and which.
func inspect(fd int) (kind int, ino uint64, err error) {
	kind, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return 0, 0, err
	}
	if kind != unix.SOCK_STREAM && kind != unix.SOCK_DGRAM {
		return 0, 0, errors.New("the socket is neither of TCP nor of UDP")
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return kind, st.Ino, err
}

func addressOf(sa unix.Sockaddr) (netip.AddrPort, bool) {
	a, ok := sa.(*unix.SockaddrInet6)
	if !ok {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), true
}
