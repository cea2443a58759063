package box

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"sync"

	"hezi/internal/box/initproc"

	"golang.org/x/sys/unix"
)

// pool keeps inits that wait in new namespaces, and in a cgroup of their own,
// for a plan. A spare sits on an empty tmpfs, so it pins no mount of the host.
//
// It is for cgroup v1, where entering a cgroup waits for an RCU grace period
// (8 ms) that holds up every fork of the machine: a spare has entered before,
// and its directories are renamed to the box's, which v1 allows and v2 does
// not. On v2 an init is born in its cgroup and the pool stays empty.
type pool struct {
	size  int
	ready chan *spare
	kick  chan struct{} // asks for a refill
	done  chan struct{}
	wait  sync.WaitGroup

	mu     sync.Mutex // guards parent
	parent string     // where the latest box's cgroup is, and the spares' are
}

// spare is an init and the directories that it is in.
type spare struct {
	*child
	parent string
	paths  map[string]string
}

const (
	spareFlags  = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	sparePrefix = "spare-"
)

func newPool(r *Runtime, size int) *pool {
	p := &pool{size: size, ready: make(chan *spare, size), kick: make(chan struct{}, 1), done: make(chan struct{})}
	if size > 0 {
		p.wait.Go(func() { p.fill(r) })
	}
	return p
}

// fill makes spares whenever some were taken. A failure is not told: the start
// that finds no spare makes its own init and reports what is wrong.
func (p *pool) fill(r *Runtime) {
	swept := ""
	for {
		select {
		case <-p.done:
			return
		case <-p.kick:
		}
		p.mu.Lock()
		parent := p.parent
		p.mu.Unlock()
		for len(p.ready) < p.size {
			s, err := r.prepare(parent)
			if errors.Is(err, errUnified) {
				return
			}
			if err != nil {
				break
			}
			if swept != parent {
				sweep(s.paths)
				swept = parent
			}
			p.ready <- s
		}
	}
}

// errUnified ends the filling: on cgroup v2 there is nothing to gain.
var errUnified = errors.New("cgroup v2 needs no spare inits")

// prepare makes a spare below the cgroup parent.
func (r *Runtime) prepare(parent string) (*spare, error) {
	g, err := r.cgroups.create(context.Background(), &Cgroup{Parent: parent}, sparePrefix+strings.ToLower(rand.Text()))
	if err != nil {
		return nil, err
	}
	if g.FD() >= 0 {
		return nil, errors.Join(errUnified, g.Remove())
	}
	c, err := r.spawn(birth{mode: initproc.ModeStart, flags: spareFlags, cgroupFD: -1, pidNS: -1})
	if err == nil {
		s := &spare{child: c, parent: parent, paths: maps.Clone(g.Paths())}
		if err = g.Add(c.pid); err == nil {
			return s, nil
		}
		c.kill()
	}
	_ = g.Remove()
	return nil, err
}

// sweep removes the directories of spares whose keeper is gone. One in use
// cannot be removed.
func sweep(paths map[string]string) {
	for _, dir := range paths {
		old, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), sparePrefix+"*"))
		for _, d := range old {
			_ = unix.Rmdir(d)
		}
	}
}

// refill asks for spares beside the latest box. It comes after the start, which
// needs the processor for itself.
func (p *pool) refill(parent string) {
	if p.size == 0 {
		return
	}
	p.mu.Lock()
	p.parent = parent
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// take gives a spare that is alive, with its cgroup named leaf, or nil.
func (p *pool) take(parent, leaf string) *spare {
	for {
		select {
		case s := <-p.ready:
			if s.parent == parent && s.alive() && s.rename(leaf) == nil {
				return s
			}
			s.discard()
		default:
			return nil
		}
	}
}

func (s *spare) rename(leaf string) error {
	done := map[string]string{} // controllers mounted together share a directory
	for controller, dir := range s.paths {
		to, ok := done[dir]
		if !ok {
			to = filepath.Join(filepath.Dir(dir), leaf)
			if err := unix.Rename(dir, to); err != nil {
				return err
			}
			done[dir] = to
		}
		s.paths[controller] = to
	}
	return nil
}

// discard ends a spare and removes its directories.
func (s *spare) discard() {
	s.kill()
	for _, dir := range s.paths {
		_ = unix.Rmdir(dir)
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
		case s := <-p.ready:
			s.discard()
		default:
			return
		}
	}
}
