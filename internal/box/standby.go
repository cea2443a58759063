package box

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// standbys keep one more init for a container on cgroup v1 that a process was
// just started in: it has entered the container's cgroup, where the next exec
// would wait for an RCU grace period (6 to 20 ms), and nothing else: it knows no
// plan, is in no namespace of the container, and serves one exec.
//
// Its threads count against the container's limit of processes, so a container
// with one has none.
type standbys struct {
	done chan struct{}

	mu sync.Mutex // guards what follows
	by map[string]*standby
}

// standby is one init, or one that is being made.
type standby struct {
	made  chan struct{}
	child *child // nil before made is closed, and when it could not be made
}

const (
	standbyMost = 64               // of all containers: 2 MB each
	standbyTime = 10 * time.Second // without an exec, after which one ends
)

func newStandbys() *standbys {
	return &standbys{done: make(chan struct{}), by: map[string]*standby{}}
}

// keyOf names a container by its cgroup; "" is one that has no standby.
func keyOf(paths map[string]string) string {
	dir := paths["pids"]
	if dir == "" {
		return ""
	}
	limit, err := os.ReadFile(filepath.Join(dir, "pids.max"))
	if err != nil || strings.TrimSpace(string(limit)) != "max" {
		return ""
	}
	return dir
}

// take gives the container's standby, if there is one that lives.
func (s *standbys) take(key string) *child {
	s.mu.Lock()
	b := s.by[key]
	if b == nil || !b.isMade() {
		s.mu.Unlock()
		return nil
	}
	delete(s.by, key)
	s.mu.Unlock()
	if b.child == nil || b.child.alive() {
		return b.child
	}
	b.child.kill()
	return nil
}

func (b *standby) isMade() bool {
	select {
	case <-b.made:
		return true
	default:
		return false
	}
}

// prepare makes a standby for the next exec, in a moment: not while the one that
// has just begun needs the processor, and its end would wait for the grace period.
func (s *standbys) prepare(r *Runtime, key string, paths map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[key] != nil || len(s.by) >= standbyMost {
		return
	}
	select {
	case <-s.done:
		return
	default:
	}
	b := &standby{made: make(chan struct{})}
	s.by[key] = b
	go func() {
		defer close(b.made)
		select {
		case <-s.done:
			return
		case <-time.After(poolLull):
		}
		c, err := r.spawn(joinBirth())
		if err != nil {
			return // the exec that needs one says why
		}
		if addToPaths(paths, c.pid) != nil { // the container has ended
			c.kill()
			return
		}
		b.child = c
		time.AfterFunc(standbyTime, func() { s.expire(key, b) })
	}()
}

func (s *standbys) expire(key string, b *standby) {
	s.mu.Lock()
	mine := s.by[key] == b
	if mine {
		delete(s.by, key)
	}
	s.mu.Unlock()
	if mine {
		b.end()
	}
}

// end waits for a standby that is being made, and ends it.
func (b *standby) end() {
	<-b.made
	if b.child != nil {
		b.child.kill()
	}
}

// leave ends the container's standby: its cgroup can be removed then.
func (s *standbys) leave(paths map[string]string) {
	key := paths["pids"]
	s.mu.Lock()
	b := s.by[key]
	delete(s.by, key)
	s.mu.Unlock()
	if b != nil {
		b.end()
	}
}

func (s *standbys) close() {
	s.mu.Lock()
	close(s.done)
	all := s.by
	s.by = map[string]*standby{}
	s.mu.Unlock()
	for _, b := range all {
		b.end()
	}
}

// lostInit says whether init ended without a word: a standby may have been
// killed, by the container's memory limit for one.
func lostInit(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Step == StepNamespace && e.Subject == "init"
}
