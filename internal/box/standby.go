package box

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"hezi/internal/box/cgroup"
	"hezi/internal/box/initproc"

	"golang.org/x/sys/unix"
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
	since time.Time     // when it was asked for
	drop  chan struct{} // closed when it is not wanted any more
	once  sync.Once     // closes drop
	made  chan struct{}
	group string // its own cgroup, renamed for the exec that it serves; "": none
	child *child // nil before made is closed, and when it could not be made
}

const (
	standbyMost = 64                     // of all containers, 2 MB each: the oldest goes first
	standbyTime = 10 * time.Second       // without an exec, after which one ends
	standbyWord = 250 * time.Millisecond // for its first word; one that stands still says none
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

// take gives the container's standby, in the group of that name, if there is one
// that lives.
func (s *standbys) take(key, group string) *child {
	s.mu.Lock()
	b := s.by[key]
	if b == nil || !b.isMade() {
		s.mu.Unlock()
		return nil
	}
	delete(s.by, key)
	s.mu.Unlock()
	if b.child == nil || b.child.alive() && b.rename(group) {
		return b.child
	}
	b.end()
	return nil
}

// rename gives the standby's group the name of the exec's; false: it is of
// another kind, or the container is going.
func (b *standby) rename(group string) bool {
	if b.group == "" || group == "" {
		return b.group == group
	}
	return cgroup.RenameInner(b.group, group) == nil
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
// box is the container's first process: leave follows its end, so that a standby
// that is asked for while it lives is one that leave finds.
func (s *standbys) prepare(r *Runtime, key string, paths map[string]string, grouped bool, box int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return
	default:
	}
	if s.by[key] != nil || ended(box, 0) {
		return
	}
	if len(s.by) >= standbyMost {
		s.evict()
	}
	b := &standby{since: time.Now(), drop: make(chan struct{}), made: make(chan struct{})}
	s.by[key] = b
	go func() {
		defer close(b.made)
		if b.child = b.make(r, paths, grouped); b.child == nil {
			s.remove(key, b)
			return
		}
		time.AfterFunc(standbyTime, func() { s.expire(key, b) })
	}()
}

// make gives an init that has entered the cgroup, or nil: the exec that needs
// one says why.
func (b *standby) make(r *Runtime, paths map[string]string, grouped bool) *child {
	select {
	case <-b.drop:
		return nil
	case <-time.After(poolLull):
	}
	birth := joinBirth()
	birth.mode = initproc.ModeStandby
	c, err := r.spawn(birth)
	if err != nil {
		return nil
	}
	inner := ""
	if grouped {
		inner, err = makeGroup(paths, cgroup.StandbyPrefix+strconv.Itoa(c.pid))
		if err != nil { // the container has ended
			c.end()
			return nil
		}
		if inner != "" {
			b.group = cgroup.Inner(paths, inner)
		}
	}
	entered := make(chan struct{})
	killed := make(chan struct{})
	go func() { // an init that is dead need not enter what is left
		defer close(killed)
		select {
		case <-b.drop:
			_ = unix.PidfdSendSignal(rawFD(c.pidfd), unix.SIGKILL, nil, 0)
		case <-entered:
		}
	}()
	err = joinGroup(paths, inner, c.pid)
	close(entered)
	<-killed
	if err != nil { // the container has ended, or drop is closed
		c.end()
		b.leaveGroup()
		return nil
	}
	return c
}

// evict ends the oldest standby. The caller holds the lock.
func (s *standbys) evict() {
	key := ""
	for k, b := range s.by {
		if key == "" || b.since.Before(s.by[key].since) {
			key = k
		}
	}
	go s.by[key].end()
	delete(s.by, key)
}

// remove says whether b was still the container's.
func (s *standbys) remove(key string, b *standby) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[key] != b {
		return false
	}
	delete(s.by, key)
	return true
}

func (s *standbys) expire(key string, b *standby) {
	if s.remove(key, b) {
		b.end()
	}
}

// end stops the making of a standby, or ends it.
func (b *standby) end() {
	b.once.Do(func() { close(b.drop) })
	<-b.made
	if b.child != nil {
		b.child.end()
		b.leaveGroup()
	}
}

func (b *standby) leaveGroup() {
	if b.group != "" {
		cgroup.RemoveInner(b.group) // what cannot go now goes with the container's
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
	var ends sync.WaitGroup
	for _, b := range all {
		ends.Go(b.end)
	}
	ends.Wait()
}
