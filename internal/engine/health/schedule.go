package health

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// slow is how long a check counts among those that run at once: one that hangs
// must not hold up others.
const slow = 2 * time.Second

// Run makes one check of what id names and says how long to wait for the next;
// again is false when there is none.
type Run func(ctx context.Context, id string) (wait time.Duration, again bool)

// Schedule makes checks when they are due. One that waits costs a place in a
// heap: no goroutine and no timer of its own. At most a number of checks run at
// once, but for those that are slow, and one at a time for each id.
type Schedule struct {
	run   Run
	ctx   context.Context
	slots chan struct{}
	wake  chan struct{}
	work  sync.WaitGroup

	mu   sync.Mutex // guards what follows
	due  queue
	byID map[string]*item
}

// item is one id: in the heap, or running.
type item struct {
	id     string
	at     time.Time
	index  int // in the heap; -1: it runs
	cancel context.CancelFunc
}

// NewSchedule begins an empty one, which ends with ctx.
func NewSchedule(ctx context.Context, atOnce int, run Run) *Schedule {
	s := &Schedule{run: run, ctx: ctx, slots: make(chan struct{}, atOnce), wake: make(chan struct{}, 1), byID: map[string]*item{}}
	s.work.Go(s.loop)
	return s
}

// Add has id checked after a time. What was planned for it, or runs, is dropped.
func (s *Schedule) Add(id string, wait time.Duration) {
	s.mu.Lock()
	s.dropLocked(id)
	s.pushLocked(&item{id: id}, wait)
	s.mu.Unlock()
}

func (s *Schedule) pushLocked(i *item, wait time.Duration) {
	i.at = time.Now().Add(wait)
	s.byID[i.id] = i
	heap.Push(&s.due, i)
	if i.index == 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Drop ends the checks of id; one that runs is cancelled.
func (s *Schedule) Drop(id string) {
	s.mu.Lock()
	s.dropLocked(id)
	s.mu.Unlock()
}

func (s *Schedule) dropLocked(id string) {
	i := s.byID[id]
	if i == nil {
		return
	}
	delete(s.byID, id)
	if i.index >= 0 {
		heap.Remove(&s.due, i.index)
	} else {
		i.cancel()
	}
}

// Wait waits for the end of what runs, after ctx has ended.
func (s *Schedule) Wait() { s.work.Wait() }

func (s *Schedule) loop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		s.mu.Lock()
		if len(s.due) > 0 {
			wait = time.Until(s.due[0].at)
		}
		s.mu.Unlock()
		if wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-s.wake:
			case <-s.ctx.Done():
				return
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		s.begin()
	}
}

// begin starts the check that is due first; the caller has taken a slot.
func (s *Schedule) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.due) == 0 || time.Now().Before(s.due[0].at) { // dropped meanwhile
		<-s.slots
		return
	}
	i := heap.Pop(&s.due).(*item)
	ctx, cancel := context.WithCancel(s.ctx)
	i.index, i.cancel = -1, cancel
	s.work.Go(func() {
		var once sync.Once
		release := func() { once.Do(func() { <-s.slots }) }
		late := time.AfterFunc(slow, release)
		wait, again := s.run(ctx, i.id)
		late.Stop()
		release()
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.byID[i.id] != i {
			return // dropped, or planned anew
		}
		delete(s.byID, i.id)
		if again {
			s.pushLocked(&item{id: i.id}, wait)
		}
	})
}

// queue is a heap of items by their time.
type queue []*item

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is heap's.
func (q *queue) Push(x any) {
	i := x.(*item)
	i.index = len(*q)
	*q = append(*q, i)
}

// Pop is heap's.
func (q *queue) Pop() any {
	last := len(*q) - 1
	i := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	i.index = -1
	return i
}
