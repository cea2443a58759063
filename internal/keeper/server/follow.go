package server

import (
	"context"
	"net"
	"regexp"
	"time"

	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// firstGeneration numbers the log file that is current when it is opened; a
// follower that comes from the image before may be in an older one.
const firstGeneration = 1 << 32

// follower is a client that reads a log, and perhaps follows it.
type follower struct {
	req  keeper.LogsRequest
	conn *net.UnixConn

	follows bool      // what was there has been sent
	pos     logs.Pos  // up to where, once follows
	rest    []byte    // of a record that is sent in part
	last    time.Time // of the last record sent before follows
	same    int       // records sent that have that time
	over    bool      // nothing more is to be sent
	out     []byte    // whole records that are to be sent with the next ones
}

// followState is a follower for the image that replaces this one.
type followState struct {
	Request keeper.LogsRequest
	FD      int
	Behind  uint64 // rotations between its file and the current one
	Offset  int64  // bytes into its file
	Rest    []byte
	// In the first reading, which has no place in the log: the time of the last
	// record sent, and how many have that time.
	First bool
	Last  time.Time
	Same  int
}

// follow serves a client until the log or the client ends, or the keeper is replaced.
func (s *Server) follow(f *follower) {
	s.mu.Lock()
	s.follows[f] = struct{}{}
	s.mu.Unlock()
	done := make(chan struct{})
	s.active.Go(func() {
		defer close(done)
		f.run(s)
	})
	<-done
	if s.isLeaving() && !f.over {
		return // the next image goes on
	}
	s.mu.Lock()
	delete(s.follows, f)
	s.mu.Unlock()
	f.conn.Close()
}

func (f *follower) run(s *Server) {
	ctx, cancel := clientContext(f.conn)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-s.leaving:
			_ = f.conn.SetWriteDeadline(time.Unix(1, 0))
			cancel()
		case <-stop:
		}
	}()
	var w *logs.Writer
	if p, err := s.lookup(f.req.ContainerID, ""); err == nil {
		w = p.log
	}
	q, err := f.query()
	if err == nil {
		f.out, f.rest = f.rest, nil
		err = f.flush()
	}
	if err == nil && !f.follows {
		err = f.readFirst(ctx, w, q)
		f.follows = err == nil
	}
	if err == nil && f.req.Follow && w != nil {
		f.pos, err = w.Follow(ctx, f.pos, q, f.write, f.flush)
	}
	if err != nil && s.isLeaving() {
		f.rest = append(f.rest, f.out...) // which the place in the log is behind
		return
	}
	f.over = true
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("followed logs ended early", "container", f.req.ContainerID, "error", err)
	}
	f.conn.CloseWrite()
}

func (f *follower) query() (logs.Query, error) {
	q := logs.Query{Stdout: f.req.Stdout, Stderr: f.req.Stderr, Tail: f.req.Tail, Since: f.req.Since, Until: f.req.Until}
	if f.req.Grep == "" {
		return q, nil
	}
	var err error
	q.Grep, err = regexp.Compile(f.req.Grep) // the engine has checked it
	return q, err
}

// readFirst sends what is there, and a warning about what cannot be read of it.
func (f *follower) readFirst(ctx context.Context, w *logs.Writer, q logs.Query) error {
	s, err := logs.OpenSnapshot(logConfig(f.req.Log), w)
	if err != nil {
		return err
	}
	defer s.Close()
	if err = s.Read(ctx, f.resumed(&q), f.firstly(f.write)); err != nil {
		return err
	}
	f.pos = s.End
	if warning := s.Damaged.String(); warning != "" {
		f.out = append(f.out, f.warning(warning)...)
	}
	return f.flush()
}

// warning is a line on standard error.
func (f *follower) warning(text string) []byte {
	b := []byte("WARNING: " + text + "\n")
	if f.req.Terminal {
		return append(b[:len(b)-1], '\r', '\n')
	}
	return append(appendHeader(nil, 1, len(b)), b...)
}

// resumed is the query of a first reading that the image before began.
func (f *follower) resumed(q *logs.Query) logs.Query {
	r := *q
	if !f.last.IsZero() {
		r.Since, r.Tail = f.last, -1
	}
	return r
}

// firstly leaves out what the image before has sent, and counts what is sent.
func (f *follower) firstly(write func(*logs.Entry) error) func(*logs.Entry) error {
	until, skip := f.last, f.same
	return func(e *logs.Entry) error {
		if skip > 0 && e.Time.Equal(until) {
			skip--
			return nil
		}
		if !e.Time.Equal(f.last) {
			f.last, f.same = e.Time, 0
		}
		f.same++
		return write(e)
	}
}

// write sends e, with others.
func (f *follower) write(e *logs.Entry) error {
	f.out = appendEntry(f.out, e, &f.req)
	if len(f.out) < chunkSize {
		return nil
	}
	return f.flush()
}

// flush sends what waits; what a replacement cuts off is kept.
func (f *follower) flush() error {
	if len(f.out) == 0 {
		return nil
	}
	n, err := f.conn.Write(f.out)
	if err != nil {
		f.rest = append([]byte(nil), f.out[n:]...)
	}
	if f.out = f.out[:0]; cap(f.out) > 2*chunkSize {
		f.out = nil
	}
	return err
}

// follower describes a follower whose run has ended; false: there is none to
// hand over. The draft of a state, while all still run, has none.
func (h *handover) follower(f *follower) (followState, bool) {
	s := h.s
	if !s.isLeaving() || f.over {
		return followState{}, false
	}
	if !f.follows {
		st := followState{Request: f.req, FD: connFD(f.conn), Rest: f.rest, First: true, Last: f.last, Same: f.same}
		return st, st.FD >= 0
	}
	p, err := s.lookup(f.req.ContainerID, "")
	if err != nil || p.log == nil {
		return followState{}, false
	}
	end := p.log.End()
	st := followState{Request: f.req, FD: connFD(f.conn), Behind: end.Gen - f.pos.Gen, Offset: f.pos.Off, Rest: f.rest}
	return st, st.FD >= 0 && end.Gen >= f.pos.Gen
}

// resumeFollow goes on with a follower of the image before.
func (h *handover) resumeFollow(st followState) error {
	conn, err := keeper.FileConn(st.FD)
	if err != nil {
		return err
	}
	if st.First {
		go h.s.follow(&follower{req: st.Request, conn: conn, rest: st.Rest, last: st.Last, same: st.Same})
		return nil
	}
	p, err := h.s.lookup(st.Request.ContainerID, "")
	if err != nil {
		conn.Close()
		return err
	}
	f := &follower{req: st.Request, conn: conn, follows: true, rest: st.Rest}
	if p.log != nil {
		f.pos = logs.Pos{Gen: p.log.End().Gen - st.Behind, Off: st.Offset}
	}
	go h.s.follow(f)
	return nil
}
