package server

import (
	"sync"

	"golang.org/x/sys/unix"
)

// bound is the log mode non-blocking of one stream: its output is read on while the
// log's disk is slow, until Buffer bytes wait in the spool; what comes then is
// dropped. Not while a client is attached, whose bytes are never dropped: then the
// container waits.
type bound struct {
	s       *stream
	limit   int64
	wake    chan struct{} // something to log; capacity 1
	stop    chan struct{}
	once    sync.Once
	writer  sync.WaitGroup
	dropped int64 // bytes, since it was last told
}

func newBound(s *stream) *bound {
	b := &bound{s: s, limit: s.p.rec.Log.Buffer, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	b.writer.Go(func() {
		for {
			select {
			case <-b.wake:
				s.flush(false)
				s.p.waitForStarter()
			case <-b.stop:
				return
			}
		}
	})
	return b
}

// end waits for the log's write under way. What is in the spool stays there.
func (b *bound) end() {
	b.once.Do(func() { close(b.stop) })
	b.writer.Wait()
	b.tell()
}

// take reads what there is, without waiting for it or for the log.
func (b *bound) take(fd int) (int, error) {
	sp := b.s.spool
	room := b.limit - (sp.size.Load() - sp.done.Load())
	if room > 0 || b.s.p.watched.Load() > 0 {
		if room <= 0 {
			b.s.flush(false)
		}
		b.tell()
		if b.s.terminal {
			return b.read(fd, true)
		}
		return sp.splice(fd)
	}
	n, err := b.read(fd, false)
	if n > 0 {
		b.dropped += int64(n)
	}
	return n, err
}

func (b *bound) read(fd int, keep bool) (int, error) {
	buf := b.s.p.srv.buffers.Get().(*[]byte)
	defer b.s.p.srv.buffers.Put(buf)
	for {
		n, err := unix.Read(fd, (*buf)[:chunkSize])
		if err == unix.EINTR {
			continue
		}
		if keep && n > 0 {
			if err := b.s.spool.append((*buf)[:n]); err != nil {
				b.s.p.srv.logger.Error("spool a terminal's output", "error", err)
			}
		}
		return max(n, 0), err
	}
}

// tell says how much was dropped, once there is room again.
func (b *bound) tell() {
	if b.dropped == 0 {
		return
	}
	b.s.p.srv.logger.Warn("output of a container was dropped, as its log mode non-blocking wants while the disk is slow", "container", b.s.p.rec.ContainerID, "stream", streamNames[b.s.index], "bytes", b.dropped)
	b.dropped = 0
}
