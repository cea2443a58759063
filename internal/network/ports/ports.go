// Package ports holds the host ports of published containers. A hold of one port
// is a bound socket that does not listen: no other program can take the port,
// and a port in use is found before the container starts. A hold of a range has
// no sockets: its ports are free when it is taken, and are its container's in
// the table, which refuses them to every other container.
package ports

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Owner is the container that a port is held for.
type Owner struct{ ID, Name string }

// Hold is what is held: one port, or a range. Close gives it back.
type Hold struct {
	Addr       netip.Addr // 0.0.0.0 or :: for all of the family
	Proto      uint8      // unix.IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP
	Port, Last uint16     // the same for one port
	Owner      Owner

	table *Table
	fd    int // -1: without a socket
}

type slot struct {
	proto uint8
	port  uint16
}

// Table is what is held. Its methods are safe for concurrent use.
type Table struct {
	mu     sync.Mutex // never held while the kernel is asked
	held   map[slot][]*Hold
	ranges []*Hold
	next   uint16 // where the search for a free port goes on
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
	return t.take(addr, proto, port, owner, bindAsked)
}

// take registers the hold first: two that want a port never both find it free.
func (t *Table) take(addr netip.Addr, proto uint8, port uint16, owner Owner, bind func(netip.Addr, uint8, uint16) (int, error)) (*Hold, error) {
	h := &Hold{Addr: addr, Proto: proto, Port: port, Last: port, Owner: owner, table: t, fd: -1}
	if err := t.reserve(h); err != nil {
		return nil, err
	}
	fd, err := bind(addr, proto, port)
	if err != nil {
		t.remove(h)
		return nil, err
	}
	h.fd = fd
	return h, nil
}

// TakeRange takes the ports from first to last together, without a socket for
// each: a program that binds one of them later gets it, and none of its packets.
// Errors are those of Take.
func (t *Table) TakeRange(addr netip.Addr, proto uint8, first, last uint16, owner Owner) (*Hold, error) {
	h := &Hold{Addr: addr, Proto: proto, Port: first, Last: last, Owner: owner, table: t, fd: -1}
	if err := t.reserve(h); err != nil {
		return nil, err
	}
	if err := probe(addr, proto, first, last); err != nil {
		t.remove(h)
		return nil, err
	}
	return h, nil
}

// Claim registers ports that a container has already, without a socket that
// keeps other programs from them.
func (t *Table) Claim(addr netip.Addr, proto uint8, first, last uint16, owner Owner) *Hold {
	return t.Keep(addr, proto, first, last, owner, -1)
}

// Keep is Claim with the socket that the container has for them, which is the hold's
// from then on.
func (t *Table) Keep(addr netip.Addr, proto uint8, first, last uint16, owner Owner, fd int) *Hold {
	h := &Hold{Addr: addr, Proto: proto, Port: first, Last: last, Owner: owner, table: t, fd: fd}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.insertLocked(h)
	return h
}

// TakeFree is Take of a port that is given up where somebody has it: who is not looked
// for. The socket is to listen, as SO_REUSEADDR is set.
func (t *Table) TakeFree(addr netip.Addr, proto uint8, port uint16, owner Owner) (*Hold, error) {
	return t.take(addr, proto, port, owner, func(addr netip.Addr, proto uint8, port uint16) (int, error) {
		fd, err := bind(addr, proto, port, proto == unix.IPPROTO_TCP)
		return fd, bindError(addr, proto, port, "", err)
	})
}

// TakeOneOf holds the first free port from first to last. With a first of 0
// the kernel's range of local ports is searched, each time from where the last search ended.
func (t *Table) TakeOneOf(addr netip.Addr, proto uint8, first, last uint16, owner Owner) (*Hold, error) {
	start, search := first, first == 0
	if search {
		first, last = localRange()
		t.mu.Lock()
		start = t.next
		t.mu.Unlock()
		if start < first || start > last {
			start = first
		}
	}
	n := int(last) - int(first) + 1
	if n == 1 {
		return t.Take(addr, proto, first, owner)
	}
	var err error
	for i := range n {
		port := first + uint16((int(start)-int(first)+i)%n)
		var h *Hold
		if h, err = t.take(addr, proto, port, owner, bindAny); err == nil {
			if search {
				t.mu.Lock()
				t.next = port + 1
				t.mu.Unlock()
			}
			return h, nil
		}
		if !errdefs.IsConflict(err) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("all ports from %d to %d of %s are allocated: %w", first, last, addr, err)
}

// reserve registers a hold if no other has a port of it.
func (t *Table) reserve(h *Hold) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.otherLocked(h); o != nil {
		return &TakenError{netip.AddrPortFrom(h.Addr, max(h.Port, o.Port)), o.Owner}
	}
	t.insertLocked(h)
	return nil
}

// otherLocked is a hold that has a port of h.
func (t *Table) otherLocked(h *Hold) *Hold {
	meets := func(o *Hold) bool {
		return o.Proto == h.Proto && o.Port <= h.Last && h.Port <= o.Last &&
			o.Addr.Is6() == h.Addr.Is6() && (o.Addr == h.Addr || o.Addr.IsUnspecified() || h.Addr.IsUnspecified())
	}
	if i := slices.IndexFunc(t.ranges, meets); i >= 0 {
		return t.ranges[i]
	}
	if h.Port == h.Last {
		if i := slices.IndexFunc(t.held[slot{h.Proto, h.Port}], meets); i >= 0 {
			return t.held[slot{h.Proto, h.Port}][i]
		}
		return nil
	}
	var lowest *Hold
	for _, list := range t.held {
		if i := slices.IndexFunc(list, meets); i >= 0 && (lowest == nil || list[i].Port < lowest.Port) {
			lowest = list[i]
		}
	}
	return lowest
}

func (t *Table) insertLocked(h *Hold) {
	if h.Port != h.Last {
		t.ranges = append(t.ranges, h)
		return
	}
	s := slot{h.Proto, h.Port}
	t.held[s] = append(t.held[s], h)
}

// remove forgets a hold; false if it was forgotten before.
func (t *Table) remove(h *Hold) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	without := func(list []*Hold) ([]*Hold, bool) {
		i := slices.Index(list, h)
		if i < 0 {
			return list, false
		}
		return slices.Delete(list, i, i+1), true
	}
	var had bool
	if h.Port != h.Last {
		t.ranges, had = without(t.ranges)
		return had
	}
	s := slot{h.Proto, h.Port}
	if t.held[s], had = without(t.held[s]); len(t.held[s]) == 0 {
		delete(t.held, s)
	}
	return had
}

// Close gives back what is held.
func (h *Hold) Close() error {
	if h.table.remove(h) && h.fd >= 0 {
		return unix.Close(h.fd)
	}
	return nil
}

// End is Close, and from then on nobody is taken at the port, whoever has copies of the
// socket.
func (h *Hold) End() error {
	if h.fd >= 0 && h.Proto == unix.IPPROTO_TCP && h.Addr.Is6() {
		_ = unix.Shutdown(h.fd, unix.SHUT_RDWR) // an error is one that does not listen
	}
	return h.Close()
}

// Socket is the hold's; it is open until Close.
func (h *Hold) Socket() (fd int, ok bool) { return h.fd, h.fd >= 0 }

// Len is the number of holds.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.ranges)
	for _, l := range t.held {
		n += len(l)
	}
	return n
}

// ProtoName is "tcp", "udp" or "sctp".
func ProtoName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
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
