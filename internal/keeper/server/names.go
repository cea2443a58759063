package server

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// nameFiles makes files of the sockets by which a container asks for names.
func nameFiles(fds []int) (names []*os.File) {
	for i, fd := range fds {
		names = append(names, os.NewFile(uintptr(fd), fileNames+strconv.Itoa(i)))
	}
	return names
}

// keepNames takes such sockets for a container that runs, in the place of those
// that it has.
func keepNames(s *Server, body json.RawMessage, fds []int) error {
	files := nameFiles(fds)
	t, err := decode[keeper.Target](body)
	var p *process
	if err == nil {
		p, err = s.lookup(t.ContainerID, "")
	}
	if err != nil {
		closeFiles(files...)
		return err
	}
	p.mu.Lock()
	old := p.names
	p.names = files
	p.mu.Unlock()
	defer closeFiles(old...)
	if p.exit() != nil { // meanwhile
		p.releasePorts()
		return nil
	}
	return p.deposit()
}

// giveSockets sends copies of a container's sockets: of, which has the process's lock, says which.
func giveSockets(s *Server, c *net.UnixConn, body json.RawMessage, of func(*process) []*os.File) error {
	t, err := decode[keeper.Target](body)
	if err != nil {
		return err
	}
	p, err := s.lookup(t.ContainerID, "")
	if err != nil {
		return err
	}
	var fds []int
	defer func() { keeper.CloseFDs(fds) }()
	p.mu.Lock()
	files := of(p)
	p.mu.Unlock()
	for _, f := range files {
		if err := using(f, func(v int) error {
			fd, err := unix.FcntlInt(uintptr(v), unix.F_DUPFD_CLOEXEC, 3)
			if err == nil {
				fds = append(fds, fd)
			}
			return err
		}); err != nil {
			return fmt.Errorf("copy a socket of the container %s: %w", t.ContainerID, err)
		}
	}
	_ = keeper.WriteFrame(c, keeper.Response{}, fds...) // the asker may be gone
	return nil
}
