// Package sockets makes the sockets by which a container asks for names: one of
// UDP and one that listens on TCP, at 127.0.0.11 and ports of the kernel's choice,
// so that port 53 stays free for the container's own programs. A table in the
// container's namespace leads 127.0.0.11:53 to them:
//
//	table ip hezi-dns {
//	  chain ask    { type filter hook output priority -300; what goes to :53 goes to the socket's port }
//	  chain answer { type filter hook output priority 300; what comes from the socket comes from :53 }
//	}
//
// Ports are rewritten packet by packet, without NAT: the container's other traffic
// needs no connection tracking for it. Where the container tracks connections
// itself, it sees a question and its answer as one, since the first is rewritten
// before that and the second after it.
package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Table is the name of the table in a container.
const Table = "hezi-dns"

// Address is where containers ask.
var Address = [4]byte{127, 0, 0, 11}

const (
	port    = 53
	backlog = 64
)

// Pair is a container's sockets. That of UDP blocks, to be read with MSG_DONTWAIT:
// Go's poller, which takes only those that do not, would wake every process that
// keeps a copy.
type Pair struct{ UDP, TCP int }

// Close gives both up.
func (p Pair) Close() error { return errors.Join(unix.Close(p.UDP), unix.Close(p.TCP)) }

// Open makes the sockets in the network namespace of the calling thread, which is
// locked and whose lo is up, and the table. Again: there may be a table of before,
// which is replaced.
//
// Where the table cannot be written, as on a kernel without nf_tables, the sockets
// are at port 53 itself, which the container's programs then cannot have.
func Open(again bool) (Pair, error) {
	p, err := open(0)
	if err != nil {
		return p, err
	}
	if err = redirect(p, again); err == nil {
		return p, nil
	}
	closed := p.Close()
	if p, err2 := open(port); err2 == nil {
		return p, closed
	}
	return p, errors.Join(err, closed)
}

func open(port int) (p Pair, err error) {
	if p.UDP, err = bind(unix.SOCK_DGRAM, port); err != nil {
		return p, err
	}
	if p.TCP, err = bind(unix.SOCK_STREAM, port); err != nil {
		return p, errors.Join(err, unix.Close(p.UDP))
	}
	if err = unix.Listen(p.TCP, backlog); err != nil {
		return p, errors.Join(fmt.Errorf("listen for the container's questions: %w", err), p.Close())
	}
	return p, nil
}

func bind(kind, port int) (int, error) {
	if kind == unix.SOCK_STREAM {
		kind |= unix.SOCK_NONBLOCK // accept has no such flag
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket for the container's name service: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: Address, Port: port}); err != nil {
		return -1, errors.Join(fmt.Errorf("bind the container's name service to 127.0.0.11: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// Valid says whether two descriptors are such sockets, in this order.
func Valid(p Pair) bool {
	for fd, kind := range map[int]int{p.UDP: unix.SOCK_DGRAM, p.TCP: unix.SOCK_STREAM} {
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || got != kind {
			return false
		}
		if _, err := Port(fd); err != nil {
			return false
		}
	}
	listens, err := unix.GetsockoptInt(p.TCP, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && listens == 1
}

// Port of a socket; an error if it is not one of ours, or was destroyed.
func Port(fd int) (uint16, error) {
	a, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	in, ok := a.(*unix.SockaddrInet4)
	if !ok || in.Addr != Address || in.Port == 0 {
		return 0, errors.New("the socket is not at 127.0.0.11")
	}
	return uint16(in.Port), nil
}

// redirect writes the table with one transaction. A table of before is removed first
// if there is one: what deletes costs the kernel a grace period.
func redirect(p Pair, again bool) error {
	udp, err := Port(p.UDP)
	if err != nil {
		return fmt.Errorf("find the port of a socket: %w", err)
	}
	tcp, err := Port(p.TCP)
	if err != nil {
		return fmt.Errorf("find the port of a socket: %w", err)
	}
	err = transaction(func(c *nftables.Conn) {
		table := &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}
		if again {
			c.AddTable(table)
			c.DelTable(table)
		}
		c.AddTable(table)
		chain := func(name string, priority nftables.ChainPriority) *nftables.Chain {
			return c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: &priority})
		}
		ask, answer := chain("ask", *nftables.ChainPriorityRaw), chain("answer", 300)
		for _, s := range []struct {
			proto byte
			to    uint16
			sum   uint32 // where a header has its checksum
		}{{unix.IPPROTO_UDP, udp, 6}, {unix.IPPROTO_TCP, tcp, 16}} {
			// Offsets in headers: of IPv4, protocol 9, source 12, destination 16; of UDP and TCP,
			// source port 0, destination port 2 (RFC 791, 768, 9293).
			c.AddRule(&nftables.Rule{Table: table, Chain: ask, Exprs: rewrite(s.proto, 16, 2, port, s.to, s.sum)})
			c.AddRule(&nftables.Rule{Table: table, Chain: answer, Exprs: rewrite(s.proto, 12, 0, s.to, port, s.sum)})
		}
	})
	if err != nil {
		return fmt.Errorf("write the nft table %s in the container: %w", Table, err)
	}
	return nil
}

// rewrite is a rule that gives packets of a protocol with our address and the port
// from the port to.
func rewrite(proto byte, address, at uint32, from, to uint16, sum uint32) []expr.Any {
	have := func(base expr.PayloadBase, offset uint32, data []byte) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(data))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
		}
	}
	list := have(expr.PayloadBaseNetworkHeader, address, Address[:])
	list = append(list, have(expr.PayloadBaseNetworkHeader, 9, []byte{proto})...)
	list = append(list, have(expr.PayloadBaseTransportHeader, at, binary.BigEndian.AppendUint16(nil, from))...)
	return append(list,
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, to)},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: at, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: sum})
}
