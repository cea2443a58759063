package ports

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	timeWait      = 6  // TCP_TIME_WAIT of net/tcp_states.h
	boundInactive = 13 // TCP_BOUND_INACTIVE there, since Linux 6.8
	everyState    = 1<<(boundInactive+1) - 1
)

// socket is one of the host's.
type socket struct {
	addr  netip.Addr
	state uint8
	inode uint64 // 0: of no process
}

// sockets are the host's by port.
type sockets map[uint16][]socket

// meets says whether the socket keeps others from the port on addr.
func (s socket) meets(addr netip.Addr) bool {
	// A socket of :: may have IPv4 too: the kernel does not tell.
	return s.addr == addr || s.addr.IsUnspecified() && (s.addr.Is6() || addr.Is4()) || addr.IsUnspecified() && s.addr.Is4() == addr.Is4()
}

func (l sockets) has(port uint16, inode uint64) bool {
	return slices.ContainsFunc(l[port], func(s socket) bool { return s.inode == inode })
}

// live says whether more than TIME_WAIT is on the port.
func (l sockets) live(addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(l[port], func(s socket) bool { return s.state != timeWait && s.meets(addr) })
}

// occupant finds the program that has a port that could not be bound, in words
// that follow an error: " by nginx (process 12)". live is false if only TIME_WAIT
// is in the way. It reads all of /proc: for the way to an error only.
func (l sockets) occupant(addr netip.Addr, proto uint8, port uint16) (who string, live bool) {
	kernel := false
	for _, s := range l[port] {
		if proto == unix.IPPROTO_TCP && s.state == timeWait || !s.meets(addr) {
			continue
		}
		live = true
		if who = process(s.inode); who != "" {
			return who, true
		}
		kernel = kernel || s.inode == 0 && proto == unix.IPPROTO_UDP
	}
	waits := slices.ContainsFunc(l[port], func(s socket) bool { return s.state == timeWait })
	switch {
	case kernel:
		who = " by the kernel itself"
	case live:
		who = " by a process that is not visible from here"
	case waits:
		who = ": closed connections keep it for a minute at most"
	default:
		who = " by a process that has bound it without listening: this kernel lists no such sockets, lsof shows them as \"protocol: " + strings.ToUpper(ProtoName(proto)) + "\" without a port"
	}
	return who, live || !waits
}

// list asks the kernel for its sockets, of one port if it is not 0. A list
// that cannot be had is empty.
func list(proto uint8, port uint16) sockets {
	all := sockets{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if !all.diagnose(family, proto, port) {
			all.read(family, proto, port)
		}
	}
	return all
}

// diagnose asks by sock_diag(7), which knows sockets that are only bound too;
// false if the kernel has no such thing.
func (l sockets) diagnose(family, proto uint8, port uint16) bool {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	b := make([]byte, 56) // struct inet_diag_req_v2
	b[0], b[1] = family, proto
	binary.NativeEndian.PutUint32(b[4:], everyState)
	binary.BigEndian.PutUint16(b[8:], port)
	req.AddRawData(b)
	answers, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return false
	}
	for _, m := range answers {
		if len(m) < 72 { // struct inet_diag_msg
			continue
		}
		addr := netip.AddrFrom16([16]byte(m[8:])).Unmap()
		if m[0] == unix.AF_INET {
			addr = netip.AddrFrom4([4]byte(m[8:]))
		}
		p := binary.BigEndian.Uint16(m[4:])
		l[p] = append(l[p], socket{addr, m[1], uint64(binary.NativeEndian.Uint32(m[68:]))})
	}
	return true
}

// read reads /proc/net, which shows no socket of TCP that is only bound.
func (l sockets) read(family, proto uint8, port uint16) {
	six := ""
	if family == unix.AF_INET6 {
		six = "6"
	}
	data, err := os.ReadFile("/proc/thread-self/net/" + ProtoName(proto) + six)
	if err != nil {
		return // a kernel without IPv6
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		host, at, _ := strings.Cut(f[1], ":")
		p, err := strconv.ParseUint(at, 16, 16)
		addr, ok := hexAddr(host)
		state, err2 := strconv.ParseUint(f[3], 16, 8)
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if !ok || err != nil || err2 != nil || err3 != nil || port != 0 && uint16(p) != port {
			continue // the heading, or another port
		}
		l[uint16(p)] = append(l[uint16(p)], socket{addr, uint8(state), inode})
	}
}

// hexAddr reads the kernel's words, each in the host's order (little endian here).
func hexAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return netip.Addr{}, false
	}
	for w := range slices.Chunk(b, 4) {
		slices.Reverse(w)
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}

// process is whoever has the socket open; "" if nobody is seen.
func process(inode uint64) string {
	if inode == 0 {
		return ""
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	socket := fmt.Sprintf("socket:[%d]", inode)
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != socket {
			continue // ended, or another file
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, err := strconv.Atoi(filepath.Base(dir))
		comm, err2 := os.ReadFile(dir + "/comm")
		if err != nil || err2 != nil {
			continue
		}
		return fmt.Sprintf(" by %s (process %d)", strings.TrimSpace(string(comm)), pid)
	}
	return ""
}
