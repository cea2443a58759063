package box

import (
	"sync"

	"hezi/internal/box/initproc"

	"golang.org/x/sys/unix"
)

// pool keeps inits that wait in new namespaces for a plan. A spare sits on an
// empty tmpfs, so it pins no mount of the host. On cgroup v2 it is not used: a
// spare would have to be moved into its cgroup, which waits for an RCU grace
// period, while a new init is born there.
type pool struct {
	size  int
	ready chan *child
	kick  chan struct{} // asks for a refill
	done  chan struct{}
	wait  sync.WaitGroup
}

const spareFlags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

func newPool(r *Runtime, size int) *pool {
	p := &pool{size: size, ready: make(chan *child, size), kick: make(chan struct{}, 1), done: make(chan struct{})}
	if size > 0 {
		p.wait.Go(func() { p.fill(r) })
		p.refill()
	}
	return p
}

// fill makes spares whenever some were taken. A failure is not told: the start
// that finds no spare makes its own init and reports what is wrong.
func (p *pool) fill(r *Runtime) {
	for {
		select {
		case <-p.done:
			return
		case <-p.kick:
		}
		for len(p.ready) < p.size {
			c, err := r.spawn(birth{mode: initproc.ModeStart, flags: spareFlags, cgroupFD: -1, pidNS: -1})
			if err != nil {
				break
			}
			p.ready <- c
		}
	}
}

func (p *pool) refill() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// take gives a spare that is alive, or nil.
func (p *pool) take(b birth) *child {
	if b.flags != spareFlags || b.cgroupFD >= 0 || b.pidNS >= 0 {
		return nil
	}
	for {
		select {
		case c := <-p.ready:
			if c.alive() {
				return c
			}
			c.kill()
		default:
			return nil
		}
	}
}

func (c *child) alive() bool {
	ended := []unix.PollFd{{Fd: int32(rawFD(c.pidfd)), Events: unix.POLLIN}}
	n, err := unix.Poll(ended, 0)
	return err == nil && n == 0
}

func (p *pool) close() {
	close(p.done)
	p.wait.Wait()
	for {
		select {
		case c := <-p.ready:
			c.kill()
		default:
			return
		}
	}
}
