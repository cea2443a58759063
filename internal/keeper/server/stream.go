package server

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/logs"
)

// After the exit, a pipe that a grandchild holds is read until it was idle
// for drainIdle, and for drainMax at most.
const (
	drainIdle = 150 * time.Millisecond
	drainMax  = 5 * time.Second
)

// stream is one output of a process.
type stream struct {
	p        *process
	index    int // 0 stdout, 1 stderr
	f        *os.File
	spool    *spool // nil without a log
	terminal bool
	bound    *bound // of the log mode non-blocking, while the pump runs
}

var streamNames = [2]string{"stdout", "stderr"}

// mark is a place in the log and both streams' places there.
type mark struct {
	pos    logs.Pos
	logged [2]int64
}

// buffers are shared by all streams: an idle one has none.
func newBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, chunkSize+2*logs.MaxLine); return &b }}
}

// newQueues are the memory of clients' queues, which an idle client has none of.
func newQueues() *sync.Pool { return &sync.Pool{New: func() any { return new([]byte) }} }

// pump reads until the end of file, or the end of the drain.
func (s *stream) pump() {
	select {
	case <-s.p.ready:
	case <-s.p.srv.leaving:
		return
	}
	rc, err := s.f.SyscallConn()
	if err != nil {
		s.p.srv.logger.Error("read a container's output", "error", err)
		return
	}
	if s.spool != nil && s.spool.size.Load() > s.spool.logged {
		s.flush(false) // found in the spool after a restart
	}
	if s.spool != nil && s.p.rec.Log.Buffer > 0 {
		s.bound = newBound(s)
		defer s.bound.end()
	}
	for {
		end, again := s.step(rc.Read)
		if end {
			break
		}
		if again {
			continue
		}
		// The deadline: the process has exited, or the keeper is being replaced.
		select {
		case <-s.p.srv.leaving:
			return
		default:
		}
		if !s.lastLook(rc.Control) {
			break
		}
		if s.p.drainOver() {
			s.takeRest(rc.Control)
			break
		}
	}
	if s.bound != nil {
		s.bound.end()
	}
	s.flush(true)
}

// lastLook reads what is there without waiting; false when nothing was.
func (s *stream) lastLook(control func(func(uintptr)) error) bool {
	more := false
	end, again := s.step(func(f func(uintptr) bool) error {
		ok := false
		if err := control(func(fd uintptr) { ok = f(fd) }); err != nil {
			return err
		}
		if !ok {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	more = !end && again
	s.p.extendDrain(s)
	return more
}

// takeRest moves what the pipe has now into the spool: the program wrote it before the
// end of the drain, however long the log has taken to be written.
func (s *stream) takeRest(control func(func(uintptr)) error) {
	if s.spool == nil || s.terminal {
		return
	}
	var err error
	cerr := control(func(fd uintptr) {
		var left int
		left, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) // of a pipe what is in it
		for n := 1; err == nil && left > 0 && n > 0; left -= n {
			s.p.outMu.Lock()
			n, err = s.spool.splice(int(fd))
			s.p.outMu.Unlock()
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		s.p.srv.logger.Error("read the rest of a container's output", "container", s.p.rec.ContainerID, "error", err)
	}
}

// step waits for output by wait and passes on one chunk of it.
func (s *stream) step(wait func(func(uintptr) bool) error) (end, again bool) {
	var n int
	var rerr error
	var buf *[]byte
	defer func() {
		if buf != nil {
			s.p.srv.buffers.Put(buf)
		}
	}()
	err := wait(func(fd uintptr) bool {
		if s.bound != nil {
			n, rerr = s.bound.take(int(fd))
			return rerr != unix.EAGAIN
		}
		if s.spool != nil && !s.terminal {
			s.p.outMu.Lock()
			n, rerr = s.spool.splice(int(fd))
			s.p.outMu.Unlock()
			return rerr != unix.EAGAIN
		}
		buf = s.p.srv.buffers.Get().(*[]byte)
		for {
			n, rerr = unix.Read(int(fd), (*buf)[:chunkSize])
			if rerr != unix.EINTR {
				break
			}
		}
		if rerr == unix.EAGAIN {
			s.p.srv.buffers.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	if err != nil {
		return !errors.Is(err, os.ErrDeadlineExceeded), false
	}
	if rerr != nil || n <= 0 { // a terminal whose last user is gone gives EIO
		return true, false
	}
	switch {
	case s.bound != nil:
		poke(s.bound.wake)
	case s.spool == nil:
		s.p.outMu.Lock()
		s.p.dispatchLocked(s.index, (*buf)[:n], nil)
		s.p.outMu.Unlock()
	case s.terminal:
		s.p.outMu.Lock()
		err := s.spool.append((*buf)[:n])
		s.p.outMu.Unlock()
		if err != nil {
			s.p.srv.logger.Error("spool a terminal's output", "error", err)
		}
		s.flush(false)
	default:
		s.flush(false)
	}
	if s.bound == nil {
		s.p.waitForStarter()
	}
	if s.p.exit() != nil {
		s.p.extendDrain(s)
	}
	return false, true
}

// flush writes whole lines of the spool (final: all) to the log and gives
// new bytes to the clients.
func (s *stream) flush(final bool) {
	if s.spool == nil {
		return
	}
	s.p.srv.logSlots <- struct{}{} // a hung disk holds a bounded number of threads
	defer func() { <-s.p.srv.logSlots }()
	buf := s.p.srv.buffers.Get().(*[]byte)
	defer s.p.srv.buffers.Put(buf)
	s.p.outMu.Lock()
	defer s.p.outMu.Unlock()
	for s.flushChunkLocked(*buf, final) {
	}
}

// flushChunkLocked returns true when there is more.
func (s *stream) flushChunkLocked(buf []byte, final bool) bool {
	p, sp := s.p, s.spool
	from := sp.logged
	n, err := sp.read(buf, from)
	if n == 0 {
		if err != nil && err != io.EOF {
			p.srv.logger.Error("read a spool", "error", err)
		}
		return false
	}
	data := buf[:n]
	last := final && from+int64(n) == sp.size.Load()
	m := p.markLocked()
	if err := s.logLocked(data, last); err != nil {
		p.logFailed(err)
	} else if p.logDead && sp.logged > from {
		p.logDead = false
		p.srv.logger.Warn("a container's log is written again; what came meanwhile is not in it", "container", p.rec.ContainerID)
	}
	if fresh := from + int64(n) - p.pos[s.index]; fresh > 0 {
		p.dispatchLocked(s.index, data[int64(n)-fresh:], m)
	}
	return from+int64(n) < sp.size.Load()
}

// logLocked logs data's lines (last: all), into as many files as they need. Where that
// fails they count as logged.
func (s *stream) logLocked(data []byte, last bool) error {
	over := false // a file that cannot be rotated grows
	var failed error
	for {
		n, full, err := s.appendLocked(data, last, over)
		if err != nil {
			return errors.Join(err, failed, s.spool.mark(s.spool.logged+logs.Whole(data, last)))
		}
		if data = data[n:]; !full {
			return failed
		}
		if failed = s.p.log.Rotate(); failed != nil {
			over = true
		}
	}
}

// appendLocked logs those of data's lines that fit into the log's file, between the
// intent and its mark.
func (s *stream) appendLocked(data []byte, last, over bool) (n int, full bool, err error) {
	if logs.Whole(data, last) == 0 {
		return 0, false, nil
	}
	ino, err := s.p.log.Inode()
	if err != nil {
		return 0, false, err
	}
	s.spool.intentIno, s.spool.intentOff = ino, s.p.log.End().Off
	if err = s.spool.save(); err != nil {
		return 0, false, err
	}
	n, full, err = s.p.log.Append(streamNames[s.index], s.p.log.Stamp(), data, last, over)
	if err != nil {
		return 0, full, err
	}
	return n, full, s.spool.mark(s.spool.logged + int64(n))
}

func (p *process) markLocked() *mark {
	m := &mark{pos: p.log.End()}
	for i, s := range p.streams {
		if s != nil {
			m.logged[i] = s.spool.logged
		}
	}
	return m
}

// logFailed reports the first failure; the container runs on, and lines are
// lost as they would be with a full disk anywhere. A client that reads from the
// log cannot go on: what it waits for will not be there. Called under outMu.
func (p *process) logFailed(err error) {
	for a := range p.clients {
		if a.file.Load() != 0 {
			delete(p.clients, a)
			p.watched.Store(int32(len(p.clients)))
			go a.kick("the client is behind and the container's log cannot be written: " + err.Error())
		}
	}
	if p.logDead {
		return
	}
	p.logDead = true
	p.srv.logger.Error("a container's log cannot be written; its output is not kept", "container", p.rec.ContainerID, "error", err)
}

// dispatchLocked gives bytes to the clients. It does not block.
func (p *process) dispatchLocked(index int, data []byte, m *mark) {
	for a := range p.clients {
		a.offer(index, data, m, p.pos)
	}
	p.pos[index] += int64(len(data))
}

// starterPatience is how long a stream waits for a starting client that could catch up
// from the log: one that reads fast has its bytes without that.
const starterPatience = 5 * time.Millisecond

// waitForStarter holds the stream back while a starting client is full: for a moment
// or, where there is no log that it could catch up from, or only one that would soon
// be rotated away, until it has read.
func (p *process) waitForStarter() {
	if p.watched.Load() == 0 {
		return
	}
	patience := starterPatience
	if p.log == nil {
		patience = -1
	}
	var starters []*attached
	p.outMu.Lock()
	for a := range p.clients {
		if a.req.Starter {
			starters = append(starters, a)
		}
	}
	p.outMu.Unlock()
	for _, a := range starters {
		a.waitSpace(patience, p.srv.leaving)
	}
	if len(starters) > 0 && p.log != nil {
		p.waitForReader()
	}
}

// waitForReader holds the stream back while the starting client reads a log
// file that one of the next rotations would delete.
func (p *process) waitForReader() {
	keep := uint64(max(p.rec.Log.MaxFiles, 1))
	if p.rec.Log.MaxSize <= 0 {
		return
	}
	for {
		end, late := p.log.End().Gen, false
		p.outMu.Lock()
		for a := range p.clients {
			if file := a.file.Load(); a.req.Starter && file != 0 && end+1-file+2 >= keep {
				late = true
			}
		}
		p.outMu.Unlock()
		if !late {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-p.srv.leaving:
			return
		}
	}
}

// extendDrain moves the end of a drain on.
func (p *process) extendDrain(s *stream) {
	e := p.exit()
	if e == nil {
		return
	}
	t := time.Now().Add(drainIdle)
	if limit := e.At.Add(drainMax); t.After(limit) && p.log != nil {
		t = limit
	}
	if err := s.f.SetReadDeadline(t); err != nil && !errors.Is(err, os.ErrClosed) {
		p.srv.logger.Error("bound a drain", "error", err)
	}
}

// drainOver: a grandchild that writes for ever does not keep a container alive.
func (p *process) drainOver() bool {
	e := p.exit()
	if e == nil || time.Since(e.At) < drainMax {
		return false
	}
	p.outMu.Lock()
	defer p.outMu.Unlock()
	for a := range p.clients {
		if p.log == nil && a.req.Starter {
			return false // its bytes wait in the pipe for a slow client
		}
	}
	return true
}

// readLog calls fn for the whole log as it is in the snapshot.
func readLog(ctx context.Context, s *logs.Snapshot, fn func(*logs.Entry) error) error {
	defer s.Close()
	return s.Read(ctx, logs.Query{Stdout: true, Stderr: true, Tail: -1}, fn)
}
