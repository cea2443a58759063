// Package ports holds the host ports of published containers. A hold is a bound
// socket that does not listen: no other program can take the port, and a port
// in use is found before the container starts.
package ports

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Owner is the container that a port is held for.
type Owner struct{ ID, Name string }

// Hold is one held port. Close gives it back.
type Hold struct {
	Addr  netip.Addr // 0.0.0.0 for all
	Proto uint8      // unix.IPPROTO_TCP or IPPROTO_UDP
	Port  uint16
	Owner Owner

	table *Table
	fd    int // -1: without a socket
}

type slot struct {
	proto uint8
	port  uint16
}

// Table is what is held. Its methods are safe for concurrent use.
type Table struct {
	mu   sync.Mutex
	held map[slot][]*Hold
	next uint16 // where the search for a free port goes on
}

// New makes an empty table.
func New() *Table { return &Table{held: map[slot][]*Hold{}} }

// TakenError tells that one of our containers has the port.
type TakenError struct {
	Addr  netip.AddrPort
	Owner Owner
}

func (e *TakenError) Error() string {
	by := e.Owner.Name
	if by == "" {
		by = e.Owner.ID
	}
	return fmt.Sprintf("Bind for %s failed: port is already allocated (by the container %s)", e.Addr, strings.TrimPrefix(by, "/"))
}

// Is classes it as a conflict.
func (e *TakenError) Is(target error) bool { return target == errdefs.ErrConflict }

// Take holds one port. A port of ours that is taken is a *TakenError; one that
// another program has names that program.
func (t *Table) Take(addr netip.Addr, proto uint8, port uint16, owner Owner) (*Hold, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(addr, proto, port, owner)
}

func (t *Table) takeLocked(addr netip.Addr, proto uint8, port uint16, owner Owner) (*Hold, error) {
	s := slot{proto, port}
	for _, h := range t.held[s] {
		if h.Addr == addr || h.Addr.IsUnspecified() || addr.IsUnspecified() {
			return nil, &TakenError{netip.AddrPortFrom(addr, port), h.Owner}
		}
	}
	fd, err := bind(addr, proto, port)
	if err != nil {
		return nil, err
	}
	h := &Hold{Addr: addr, Proto: proto, Port: port, Owner: owner, table: t, fd: fd}
	t.held[s] = append(t.held[s], h)
	return h, nil
}

// Claim registers a port that a container has already, without a socket that
// keeps other programs from it.
func (t *Table) Claim(addr netip.Addr, proto uint8, port uint16, owner Owner) *Hold {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := &Hold{Addr: addr, Proto: proto, Port: port, Owner: owner, table: t, fd: -1}
	t.held[slot{proto, port}] = append(t.held[slot{proto, port}], h)
	return h
}

// TakeOneOf holds the first free port from first to last. With a first of 0
// the kernel's range of local ports is searched, each time from where the last search ended.
func (t *Table) TakeOneOf(addr netip.Addr, proto uint8, first, last uint16, owner Owner) (*Hold, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	start, search := first, first == 0
	if search {
		first, last = localRange()
		if start = t.next; start < first || start > last {
			start = first
		}
	}
	n := int(last) - int(first) + 1
	var err error
	for i := range n {
		port := first + uint16((int(start)-int(first)+i)%n)
		var h *Hold
		if h, err = t.takeLocked(addr, proto, port, owner); err == nil {
			if search {
				t.next = port + 1
			}
			return h, nil
		}
		if !errdefs.IsConflict(err) {
			return nil, err
		}
	}
	if n == 1 {
		return nil, err
	}
	return nil, fmt.Errorf("all ports from %d to %d of %s are allocated: %w", first, last, addr, err)
}

// Close gives the port back.
func (h *Hold) Close() error {
	h.table.mu.Lock()
	defer h.table.mu.Unlock()
	s := slot{h.Proto, h.Port}
	list := h.table.held[s]
	for i, x := range list {
		if x == h {
			list = append(list[:i:i], list[i+1:]...)
			if len(list) == 0 {
				delete(h.table.held, s)
			} else {
				h.table.held[s] = list
			}
			if h.fd < 0 {
				return nil
			}
			return unix.Close(h.fd)
		}
	}
	return nil
}

// Len is the number of held ports.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, l := range t.held {
		n += len(l)
	}
	return n
}

// bind holds a port against every other program. Only if nothing but closed
// connections in TIME_WAIT stands in the way is SO_REUSEADDR set, which lets a
// program that sets it too have the port.
func bind(addr netip.Addr, proto uint8, port uint16) (int, error) {
	fd, err := bindOnce(addr, proto, port, false)
	if !errors.Is(err, unix.EADDRINUSE) {
		return fd, bindError(addr, proto, port, "", err)
	}
	who, live := occupant(addr, proto, port)
	if proto == unix.IPPROTO_TCP && !live {
		if fd, err = bindOnce(addr, proto, port, true); err == nil {
			return fd, nil
		}
	}
	return -1, bindError(addr, proto, port, who, err)
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

func bindOnce(addr netip.Addr, proto uint8, port uint16, reuse bool) (int, error) {
	typ := unix.SOCK_STREAM
	if proto == unix.IPPROTO_UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(proto))
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if reuse {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("set SO_REUSEADDR: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ProtoName is "tcp" or "udp".
func ProtoName(proto uint8) string {
	if proto == unix.IPPROTO_UDP {
		return "udp"
	}
	return "tcp"
}

// localRange reads the kernel's range of local ports.
func localRange() (first, last uint16) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		if _, err := fmt.Sscan(string(b), &first, &last); err == nil && first > 0 && first <= last {
			return first, last
		}
	}
	return 32768, 60999
}
