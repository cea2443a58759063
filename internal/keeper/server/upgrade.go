package server

import (
	"encoding/json"
	"errors"
	"net"

	"github.com/containerd/errdefs"

	"hezi/internal/keeper"
)

// park keeps a client whose goroutines have ended for the next image.
func (s *Server) park(a *attached) {
	s.mu.Lock()
	s.parked = append(s.parked, a)
	s.mu.Unlock()
}

func (s *Server) upgrade(body json.RawMessage, c *net.UnixConn) {
	respond(c, nil, keeper.Classed(errdefs.ErrNotImplemented, "the keeper does not replace itself yet"))
}

func (s *Server) resume(fd int) error { return errors.New("no state") }

func checkState(fd int) error { return errors.New("no state") }
