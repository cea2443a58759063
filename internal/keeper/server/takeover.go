package server

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"net"

	"github.com/containerd/errdefs"

	"hezi/internal/box"
	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// takeOver takes the connection fd over; then does the rest once the engine
// has its answer.
func (s *Server) takeOver(body json.RawMessage, fd int) (then func(), err error) {
	conn, err := keeper.FileConn(fd)
	if err != nil {
		return nil, err
	}
	t, err := decode[keeper.TakeOver](body)
	if err == nil {
		switch {
		case t.Attach != nil:
			then, err = s.attach(t, conn)
		case t.Wait != nil:
			then = func() { s.serveWait(t.Wait, conn) }
		case t.Logs != nil:
			then = func() { s.follow(&follower{req: *t.Logs, conn: conn}) }
		default:
			err = keeper.Classed(errdefs.ErrInvalidArgument, "the request says not what the connection is for")
		}
	}
	if err != nil {
		conn.Close()
	}
	return then, err
}

func (s *Server) attach(t *keeper.TakeOver, conn *net.UnixConn) (func(), error) {
	a := newAttached(s, *t.Attach, conn, t.Buffered)
	id := t.Attach.ContainerID
	if t.Attach.NextStart {
		s.mu.Lock()
		p := s.containers[id]
		if p == nil || p.exit() != nil {
			n := s.pendingLocked(id)
			a.watched = make(chan struct{})
			n.clients = append(n.clients, a)
			s.mu.Unlock()
			return func() { s.pendingLeft(id, a) }, nil
		}
		s.mu.Unlock()
	}
	p, err := s.lookup(id, t.Attach.ExecID)
	if err != nil {
		return nil, err
	}
	return func() {}, p.join(a)
}

// pendingLeft drops a client that leaves before the start.
func (s *Server) pendingLeft(id string, a *attached) {
	if a.awaitJoin() || s.isLeaving() { // the next image watches on
		return
	}
	s.mu.Lock()
	if n := s.pending[id]; n != nil {
		for i, c := range n.clients {
			if c == a {
				n.clients = append(n.clients[:i:i], n.clients[i+1:]...)
				break
			}
		}
	}
	s.mu.Unlock()
	select {
	case <-a.joined:
	default:
		a.close()
	}
}

// clientContext ends when the client closes its connection.
func clientContext(conn *net.UnixConn) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		rc, err := conn.SyscallConn()
		if err != nil {
			return
		}
		_ = rc.Read(func(fd uintptr) bool { return hungUp(int(fd)) }) // either way it is over
	}()
	return ctx, cancel
}

// waitBody is the body of POST /containers/{id}/wait.
type waitBody struct {
	Error      *waitError `json:",omitempty"`
	StatusCode int
}

type waitError struct{ Message string }

func (s *Server) serveWait(r *keeper.WaitRequest, conn *net.UnixConn) {
	defer conn.Close()
	ctx, cancel := clientContext(conn)
	defer cancel()
	s.mu.Lock()
	s.waits[conn] = *r
	s.mu.Unlock()
	e, err := s.waitFor(ctx, r.ContainerID, r.Condition)
	s.mu.Lock()
	delete(s.waits, conn)
	s.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	raw, err := json.Marshal(waitAnswer(e, err))
	if err != nil {
		s.logger.Error("answer a wait", "error", err)
		return
	}
	if _, err := conn.Write(append(raw, '\n')); err != nil {
		return // the client left at the same moment
	}
	conn.CloseWrite()
}

func waitAnswer(e box.Exit, err error) waitBody {
	b := waitBody{StatusCode: e.Code}
	switch {
	case err != nil:
		b.StatusCode, b.Error = 125, &waitError{err.Error()}
	case e.Reason != "":
		b.Error = &waitError{e.Reason}
	}
	return b
}

// appendEntry appends e as the client of r expects it.
func appendEntry(dst []byte, e *logs.Entry, r *keeper.LogsRequest) []byte {
	start := len(dst)
	if !r.Terminal {
		dst = appendHeader(dst, streamIndex(e), 0)
	}
	if r.Timestamps {
		dst = append(e.Time.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000Z07:00"), ' ')
	}
	if r.Details {
		dst = append(append(dst, e.DetailsString()...), ' ')
	}
	dst = append(dst, e.Line...)
	if !r.Terminal {
		binary.BigEndian.PutUint32(dst[start+4:], uint32(len(dst)-start-8))
	}
	return dst
}
