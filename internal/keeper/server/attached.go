package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// queueLimit is what a client may be behind, in bytes, before it has to catch
// up from the log.
const queueLimit = 256 << 10

// attached is a client's connection joined to a process.
//
// live: bytes go to the queue. lagging: the queue was full, the bytes since
// are read from the log once the queue is empty, then live again.
type attached struct {
	req  keeper.AttachRequest
	conn *net.UnixConn
	srv  *Server
	keys *detachScanner
	// file is the generation of the log that a lagging client reads, plus one;
	// 0: it is live.
	file  atomic.Uint64
	first atomic.Bool // it is being sent what was in the log when it came

	mu     sync.Mutex // guards the rest
	p      *process   // nil until it has joined
	queue  []byte
	lag    *lag
	ending bool // the process is drained: flush, then close
	gone   bool
	joined chan struct{}
	wake   chan struct{} // something to write; capacity 1
	space  chan struct{} // the queue got shorter; capacity 1
	over   chan struct{} // closed once gone
	stdin  []byte        // read by the engine before the handover
	past   *logs.Snapshot
	// watched is closed once awaitJoin has ended; nil when it never ran. Two
	// may not wait on the connection at a time.
	watched chan struct{}
}

// lag is where a client has to go on in the log: the record place and each stream's place there,
// and up to where the client has each stream.
type lag struct {
	mark
	sent [2]int64
}

func newAttached(s *Server, req keeper.AttachRequest, conn *net.UnixConn, buffered []byte) *attached {
	return &attached{
		req: req, conn: conn, srv: s, keys: &detachScanner{keys: req.DetachKeys}, stdin: buffered,
		joined: make(chan struct{}), wake: make(chan struct{}, 1), space: make(chan struct{}, 1), over: make(chan struct{}),
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (a *attached) wants(index int) bool {
	return a.req.Terminal && (a.req.Stdout || a.req.Stderr) || index == 0 && a.req.Stdout || index == 1 && a.req.Stderr
}

// join makes a a client of p.
func (p *process) join(a *attached) error {
	p.outMu.Lock()
	if a.req.Logs && p.log != nil {
		past, err := logs.OpenSnapshot(logConfig(p.rec.Log), p.log)
		if err != nil {
			p.outMu.Unlock()
			return err
		}
		a.past = past
		a.first.Store(true)
		if a.req.Stream {
			m := p.markLocked()
			a.lag = &lag{mark: *m, sent: m.logged}
			a.file.Store(m.pos.Gen + 1)
		}
	}
	a.mu.Lock()
	a.p = p
	a.mu.Unlock()
	if a.req.Stream {
		p.clients[a] = struct{}{}
		p.watched.Store(int32(len(p.clients)))
	} else {
		a.ending = true
	}
	select {
	case <-p.drained:
		a.ending = true
	default:
	}
	p.outMu.Unlock()
	close(a.joined)
	a.conn.SetReadDeadline(time.Unix(1, 0)) // wakes awaitJoin; readLoop clears it
	p.srv.active.Go(a.writeLoop)
	p.srv.active.Go(a.readLoop)
	p.release()
	return nil
}

// awaitJoin watches a client that waits for a start; false: it left.
func (a *attached) awaitJoin() bool {
	defer close(a.watched)
	rc, err := a.conn.SyscallConn()
	if err != nil {
		return false
	}
	left := false
	err = rc.Read(func(fd uintptr) bool {
		left = hungUp(int(fd))
		return left
	})
	select {
	case <-a.joined:
		return true
	default:
		return !left && err == nil
	}
}

// hungUp: the peer has closed, not only ended its sending side.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// offer queues live bytes. It never blocks. pos is where data begins.
func (a *attached) offer(index int, data []byte, m *mark, pos [2]int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone || a.lag != nil {
		return
	}
	if len(a.queue) > queueLimit {
		switch {
		case m != nil:
			a.lag = &lag{mark: *m, sent: pos}
			a.file.Store(m.pos.Gen + 1)
			poke(a.wake)
			return
		case !a.req.Starter:
			go a.kick("the client reads too slowly and the container has no log to catch up from")
			return
		}
	}
	a.enqueueLocked(index, data)
}

func (a *attached) enqueueLocked(index int, data []byte) {
	if !a.wants(index) {
		return
	}
	if a.queue == nil {
		a.queue = *a.srv.queues.Get().(*[]byte)
	}
	a.queue = a.frame(a.queue, index, data)
	poke(a.wake)
}

// frame appends data as the client expects it.
func (a *attached) frame(dst []byte, index int, data []byte) []byte {
	if !a.req.Terminal {
		dst = appendHeader(dst, index, len(data))
	}
	return append(dst, data...)
}

// joined are bytes for a client, those of one stream that follow each other in one
// frame: a client that reads a log need not take it line by line.
type joined struct {
	a     *attached
	bytes []byte
	head  int // where the last frame begins
	index int // whose stream it is
}

func (j *joined) add(index int, data []byte) {
	if len(j.bytes) == 0 || index != j.index || j.a.req.Terminal {
		j.head, j.index = len(j.bytes), index
		j.bytes = j.a.frame(j.bytes, index, data)
		return
	}
	j.bytes = append(j.bytes, data...)
	binary.BigEndian.PutUint32(j.bytes[j.head+4:], uint32(len(j.bytes)-j.head-8))
}

func appendHeader(dst []byte, index, n int) []byte {
	var h [8]byte
	h[0] = byte(index + 1)
	binary.BigEndian.PutUint32(h[4:], uint32(n))
	return append(dst, h[:]...)
}

// waitSpace blocks while the queue is full, and not for longer than patience (negative:
// for ever). It does not wait for one that reads from the log.
func (a *attached) waitSpace(patience time.Duration, leaving <-chan struct{}) {
	var late <-chan time.Time
	for {
		a.mu.Lock()
		full := len(a.queue) > queueLimit && a.lag == nil && !a.gone
		a.mu.Unlock()
		if !full {
			return
		}
		if late == nil && patience >= 0 {
			late = time.After(patience)
		}
		select {
		case <-a.space:
		case <-late:
			return
		case <-a.over:
			return
		case <-leaving:
			return
		}
	}
}

// writeLoop is the only writer of the connection.
func (a *attached) writeLoop() {
	defer a.close()
	if past := a.past; past != nil {
		defer a.first.Store(false)
		a.past = nil
		if a.writePast(past) != nil {
			return
		}
		a.first.Store(false)
	}
	for {
		a.mu.Lock()
		out, lagging, ending := a.queue, a.lag != nil, a.ending
		a.queue = nil
		a.mu.Unlock()
		switch {
		case len(out) > 0:
			n, err := a.conn.Write(out)
			if a.srv.isLeaving() {
				a.requeue(out[n:])
				a.srv.handover.park(a)
				return
			}
			if err != nil {
				return
			}
			if out = out[:0]; cap(out) <= 2*queueLimit {
				a.srv.queues.Put(&out)
			}
			poke(a.space)
			continue
		case lagging:
			if err := a.catchUp(); err != nil {
				if a.srv.isLeaving() {
					a.srv.handover.park(a)
				}
				return
			}
			continue
		case ending:
			if err := a.sayExit(); err == nil {
				a.finish()
			}
			return
		}
		select {
		case <-a.wake:
		case <-a.over:
			return
		case <-a.srv.leaving:
			a.srv.handover.park(a)
			return
		}
	}
}

func (a *attached) requeue(rest []byte) {
	a.mu.Lock()
	a.queue = append(append([]byte(nil), rest...), a.queue...)
	a.mu.Unlock()
}

// writePast sends what was in the log when the client came.
func (a *attached) writePast(past *logs.Snapshot) error {
	out := joined{a: a}
	send := func() error {
		_, err := a.conn.Write(out.bytes)
		out.bytes = out.bytes[:0]
		return err
	}
	err := readLog(context.Background(), past, func(e *logs.Entry) error {
		if i := streamIndex(e); a.wants(i) {
			out.add(i, e.Line)
		}
		if len(out.bytes) < chunkSize {
			return nil
		}
		return send()
	})
	if err != nil || len(out.bytes) == 0 {
		return err
	}
	return send()
}

// streamIndex is that of an entry's stream.
func streamIndex(e *logs.Entry) int {
	if e.Stream == streamNames[1] {
		return 1
	}
	return 0
}

// catchUp sends what the log has beyond the client's place, then goes live. On
// an error the place is behind all that was given to the connection or put back
// into the queue.
func (a *attached) catchUp() error {
	l, p := a.lag, a.p
	out := joined{a: a}
	send := func() error {
		n, err := a.conn.Write(out.bytes)
		if err != nil {
			a.requeue(out.bytes[n:])
		}
		out.bytes = out.bytes[:0]
		return err
	}
	pos, err := p.log.ReadFrom(context.Background(), l.pos, func(e *logs.Entry) error {
		i := streamIndex(e)
		start := l.logged[i]
		l.logged[i] += int64(len(e.Line))
		if l.logged[i] <= l.sent[i] {
			return nil
		}
		e.Line = e.Line[max(l.sent[i]-start, 0):]
		l.sent[i] = l.logged[i]
		if !a.wants(i) {
			return nil
		}
		if out.add(i, e.Line); len(out.bytes) < chunkSize {
			return nil
		}
		return send()
	})
	if err == nil && len(out.bytes) > 0 {
		err = send()
	}
	if err != nil {
		l.pos = pos
		if errors.Is(err, logs.ErrRotatedAway) {
			a.srv.logger.Warn("an attached client was disconnected", "container", a.req.ContainerID, "error", err)
		}
		return err
	}
	l.pos = pos
	a.file.Store(pos.Gen + 1)
	p.outMu.Lock()
	defer p.outMu.Unlock()
	if l.pos.Less(p.log.End()) {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range p.streams {
		if s == nil || p.pos[i] <= l.sent[i] {
			continue
		}
		rest := make([]byte, min(p.pos[i]-l.sent[i], chunkSize+logs.MaxLine))
		n, err := s.spool.read(rest, l.sent[i]) // a line that has not ended yet
		if err != nil && err != io.EOF {
			return err
		}
		a.enqueueLocked(i, rest[:n])
	}
	a.lag = nil
	a.file.Store(0)
	return nil
}

// kick ends a client with a reason in its own stream.
func (a *attached) kick(why string) {
	a.srv.logger.Warn("an attached client was disconnected", "container", a.req.ContainerID, "reason", why)
	a.close()
}

// sayExit ends the stream with the exit code, where the client asked for it.
func (a *attached) sayExit() error {
	if !a.req.ExitFrame || a.req.Terminal {
		return nil
	}
	e := a.p.exit()
	if e == nil {
		return nil
	}
	frame := appendHeader(nil, keeper.StreamExit-1, 4)
	_, err := a.conn.Write(binary.BigEndian.AppendUint32(frame, uint32(e.Code)))
	return err
}

// finish closes politely: the end of our side first, and no reset while the
// client still has something to read.
func (a *attached) finish() {
	a.conn.CloseWrite()
	select {
	case <-a.over:
	case <-time.After(time.Second):
	}
}

// close ends the client's part.
func (a *attached) close() {
	if a.srv.isLeaving() {
		return
	}
	a.mu.Lock()
	p, was := a.p, a.gone
	a.gone = true
	a.mu.Unlock()
	if was {
		return
	}
	close(a.over)
	a.conn.Close()
	if p == nil {
		return
	}
	p.outMu.Lock()
	delete(p.clients, a)
	p.watched.Store(int32(len(p.clients)))
	p.outMu.Unlock()
	clientGone(p)
}

// end is called once the process is drained: flush and close.
func (a *attached) end() {
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	poke(a.wake)
}

// readLoop passes the client's input on, and notices that it leaves.
func (a *attached) readLoop() {
	if a.watched != nil {
		<-a.watched
	}
	a.conn.SetReadDeadline(time.Time{})
	if a.srv.isLeaving() {
		return
	}
	first := a.stdin
	a.stdin = nil
	if len(first) > 0 && a.input(first) {
		return
	}
	buf := a.srv.buffers.Get().(*[]byte)
	b := (*buf)[:4096]
	defer a.srv.buffers.Put(buf)
	for {
		if err := a.awaitInput(); err != nil {
			break
		}
		n, err := a.conn.Read(b)
		if n > 0 && a.input(b[:n]) {
			return
		}
		if err == nil {
			continue
		}
		if a.srv.isLeaving() {
			return
		}
		if !errors.Is(err, io.EOF) {
			a.close()
			return
		}
		break
	}
	if a.srv.isLeaving() {
		return
	}
	a.inputEnded()
	if !a.awaitHangup() || a.srv.isLeaving() {
		return
	}
	a.close()
}

// awaitInput waits without a buffer being written to.
func (a *attached) awaitInput() error {
	rc, err := a.conn.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		return err != nil || n > 0
	})
}

func (a *attached) awaitHangup() bool {
	rc, err := a.conn.SyscallConn()
	if err != nil {
		return true
	}
	err = rc.Read(func(fd uintptr) bool { return hungUp(int(fd)) })
	return err == nil || errors.Is(err, net.ErrClosed)
}

// inputEnded: the client has shut down its sending side.
func (a *attached) inputEnded() {
	r := a.p.snapshot()
	if !a.req.Stdin || !r.StdinOnce || r.Terminal {
		return
	}
	if err := a.p.closeStdin(); err != nil {
		a.srv.logger.Warn("close a container's standard input", "container", r.ContainerID, "error", err)
	}
}

// input gives b to the process; true: the client detached by its keys.
func (a *attached) input(b []byte) bool {
	if !a.req.Stdin {
		return false
	}
	b, detached := a.keys.scan(b)
	a.p.mu.Lock()
	to := a.p.stdin
	a.p.mu.Unlock()
	if a.p.console != nil {
		to = a.p.console
	}
	if to != nil && len(b) > 0 {
		if n, err := to.Write(b); err != nil && errors.Is(err, os.ErrDeadlineExceeded) && a.srv.isLeaving() {
			a.mu.Lock()
			a.stdin = append([]byte(nil), b[n:]...)
			a.mu.Unlock()
		}
		// Any other error: the program has ended its input, which is its right.
	}
	if detached {
		a.srv.publish(keeper.Event{Type: keeper.EventDetach, ContainerID: a.req.ContainerID, ExecID: a.req.ExecID})
		a.detach()
	}
	return detached
}

// detach ends the client without ending the process.
func (a *attached) detach() {
	a.mu.Lock()
	p := a.p
	a.mu.Unlock()
	p.outMu.Lock()
	delete(p.clients, a)
	p.watched.Store(int32(len(p.clients)))
	p.outMu.Unlock()
	p.mu.Lock()
	kept := p.rec.KillOnDisconnect
	p.rec.KillOnDisconnect = false
	p.mu.Unlock()
	if kept {
		if err := p.update(); err != nil { // or a later keeper would end it
			a.srv.logger.Warn("tell the holder that a client detached", "error", err)
		}
	}
	a.close()
}

// detachScanner finds the detach keys across reads.
type detachScanner struct {
	keys []byte
	held int // keys matched so far, not yet passed on
}

// scan returns what to pass on, and whether the keys were complete.
func (d *detachScanner) scan(b []byte) ([]byte, bool) {
	if len(d.keys) == 0 {
		return b, false
	}
	out := make([]byte, 0, len(b)+d.held)
	for _, c := range b {
		if c == d.keys[d.held] {
			if d.held++; d.held == len(d.keys) {
				d.held = 0
				return out, true
			}
			continue
		}
		out = append(out, d.keys[:d.held]...)
		d.held = 0
		if c == d.keys[0] {
			d.held = 1
			if len(d.keys) == 1 {
				return out, true
			}
			continue
		}
		out = append(out, c)
	}
	return out, false
}
