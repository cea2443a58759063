package server

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// portFiles makes files of a request's sockets, numbered from a number on.
func portFiles(fds []int, from int) (ports []*os.File) {
	for i, fd := range fds {
		ports = append(ports, os.NewFile(uintptr(fd), filePort+strconv.Itoa(from+i)))
	}
	return ports
}

// keepPorts changes which sockets are kept for a container. The holder has the new
// ones before the old ones are closed.
func keepPorts(s *Server, r *keeper.PortsRequest) error {
	s.mu.Lock()
	p := s.containers[r.ContainerID]
	s.mu.Unlock()
	if p == nil {
		keeper.CloseFDs(r.Ports)
		return keeper.Classed(errdefs.ErrNotFound, "container "+r.ContainerID+" does not run")
	}
	p.mu.Lock()
	if p.rec.Exit != nil {
		p.mu.Unlock()
		keeper.CloseFDs(r.Ports)
		return keeper.Classed(errdefs.ErrNotFound, "container "+r.ContainerID+" has ended")
	}
	var kept, gone []*os.File
	next := 0
	for _, f := range p.ports {
		if n, err := strconv.Atoi(strings.TrimPrefix(f.Name(), filePort)); err == nil {
			next = max(next, n+1)
		}
		if name, err := localName(f); err == nil && !slices.Contains(r.Keep, name) {
			gone = append(gone, f)
		} else {
			kept = append(kept, f)
		}
	}
	room := max(0, min(len(r.Ports), keeper.MaxPorts-len(kept)))
	keeper.CloseFDs(r.Ports[room:])
	p.ports = append(kept, portFiles(r.Ports[:room], next)...)
	p.mu.Unlock()
	err := p.deposit()
	closeFiles(gone...)
	return err
}

// localName is a socket's own address with its protocol, as 0.0.0.0:80/tcp.
func localName(f *os.File) (name string, err error) {
	err = using(f, func(fd int) error {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err != nil {
			return err
		}
		word := map[int]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}[proto]
		switch a := sa.(type) {
		case *unix.SockaddrInet4:
			name = fmt.Sprintf("%s/%s", netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), word)
		case *unix.SockaddrInet6:
			name = fmt.Sprintf("%s/%s", netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), word)
		default:
			return fmt.Errorf("a socket of another kind: %T", sa)
		}
		return nil
	})
	return name, err
}

// releasePorts gives up the container's ports, and its sockets of names, before anybody can know that it
// has ended and start it again.
func (p *process) releasePorts() {
	p.mu.Lock()
	ports := slices.Concat(p.ports, p.names)
	p.ports, p.names = nil, nil
	p.mu.Unlock()
	closeFiles(ports...)
	for _, f := range ports {
		if err := p.srv.link.drop(p.key, f.Name()); err != nil && !errors.Is(err, errdefs.ErrUnavailable) {
			p.srv.logger.Warn("give up a container's port", "container", p.rec.ContainerID, "error", err)
		}
	}
}
