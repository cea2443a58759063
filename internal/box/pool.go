package box

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hezi/internal/box/initproc"

	"golang.org/x/sys/unix"
)

// pool keeps inits that wait in new namespaces, and in a cgroup of their own,
// for a plan. A spare sits on an empty tmpfs, so it pins no mount of the host.
//
// It is for cgroup v1, where entering a cgroup waits for an RCU grace period
// (8 ms) that holds up every fork and every exit of the machine: a spare has
// entered before, and its directories are renamed to the box's, which v1 allows
// and v2 does not. On v2 an init is born in its cgroup and the pool stays empty.
//
// A refill is made when no start has come for a while, or at once when a start
// found no spare: then the pool also grows, because starts come in a row.
// Spares that enter one right after the other share one grace period. A grown
// pool shrinks to its base when starts stay away: a spare is 2 MB.
type pool struct {
	base  int
	ready chan *spare
	kick  chan struct{} // a start was made
	done  chan struct{}
	wait  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	parent string     // where the latest box's cgroup is, and the spares' are
	stock  *stock     // of the latest box that has one; nil: none
	missed bool       // a start found no spare
}

const (
	poolMost = 8                     // spares of a grown pool
	poolLull = 40 * time.Millisecond // without starts, before a refill
	poolCalm = 10 * time.Second      // without starts, before the pool shrinks
)

// spare is an init and the directories that it is in.
type spare struct {
	*child
	group  group
	stock  string // the key of what it has built; "": nothing
	parent string
	paths  map[string]string
}

const (
	spareFlags  = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	sparePrefix = "spare-"
)

func newPool(r *Runtime, base int) *pool {
	p := &pool{base: base, ready: make(chan *spare, poolMost), kick: make(chan struct{}, 1), done: make(chan struct{})}
	if base > 0 {
		p.wait.Go(func() { p.keep(r) })
	}
	return p
}

// keep fills and shrinks the pool. A failure is not told: the start that finds
// no spare makes its own init and reports what is wrong.
func (p *pool) keep(r *Runtime) {
	target := p.base
	timer := time.NewTimer(poolCalm)
	defer timer.Stop()
	f := &filler{runtime: r}
	due := false // a refill is
	for {
		select {
		case <-p.done:
			return
		case <-p.kick:
			p.mu.Lock()
			missed := p.missed
			p.missed = false
			p.mu.Unlock()
			if due = true; !missed {
				timer.Reset(poolLull)
				continue
			}
			target = min(2*target, poolMost)
		case <-timer.C:
			if !due {
				target = p.base
			}
		}
		for len(p.ready) > target {
			(<-p.ready).discard()
		}
		if due = false; errors.Is(f.fill(p, target), errUnified) {
			return
		}
		timer.Reset(poolCalm)
	}
}

// filler makes spares, several at a time.
type filler struct {
	runtime *Runtime
	swept   string // the parent whose old spares were removed
}

func (f *filler) fill(p *pool, target int) error {
	p.mu.Lock()
	parent, outfit := p.parent, p.stock
	p.mu.Unlock()
	if parent == "" { // no start yet
		return nil
	}
	var born []*spare
	var err error
	for len(p.ready)+len(born) < target {
		var s *spare
		if s, err = f.runtime.prepare(parent); err != nil {
			break
		}
		born = append(born, s)
	}
	if len(born) > 0 && f.swept != parent { // at the end: those in use cannot be removed
		defer sweep(maps.Clone(born[0].paths)) // a start that takes it renames them
		f.swept = parent
	}
	for _, s := range born {
		if err := s.group.Add(s.pid); err != nil {
			s.discard()
			continue
		}
		if outfit != nil {
			if err := s.outfit(outfit); err != nil {
				slog.Debug("a spare init could not be prepared", "error", err)
				s.discard()
				continue
			}
		}
		p.ready <- s
	}
	return err
}

// errUnified ends the filling: on cgroup v2 there is nothing to gain.
var errUnified = errors.New("cgroup v2 needs no spare inits")

// prepare makes a spare for the cgroup parent, which it has not entered yet.
func (r *Runtime) prepare(parent string) (*spare, error) {
	g, err := r.cgroups.create(context.Background(), &Cgroup{Parent: parent}, sparePrefix+strings.ToLower(rand.Text()))
	if err != nil {
		return nil, err
	}
	if g.FD() >= 0 {
		return nil, errors.Join(errUnified, g.Remove())
	}
	c, err := r.spawn(birth{mode: initproc.ModeStart, flags: spareFlags, cgroupFD: -1, pidNS: -1, userNS: -1})
	if err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return &spare{child: c, group: g, parent: parent, paths: maps.Clone(g.Paths())}, nil
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

// remember keeps what the next spares build.
func (p *pool) remember(k *stock) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stock == nil || p.stock.key != k.key {
		p.stock = k
	}
}

// refill asks for spares beside the latest box. It comes after the start, which
// needs the processor for itself.
func (p *pool) refill(parent string) {
	if p.base == 0 {
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
			p.mu.Lock()
			p.missed = true
			p.mu.Unlock()
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

func (c *child) alive() bool { return !ended(rawFD(c.pidfd), 0) }

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
