// Package usage samples what containers use, for those who ask: once, or each
// second. A sample always has one before it, so that the use of processors is
// known: one that is some seconds old, or one that is made 50 ms earlier.
package usage

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
)

const (
	// Interval is how often a stream has a sample.
	Interval = time.Second
	// An earlier sample between these ages is good to compute a processor's use
	// from; without one it is made, and waited for.
	sampleAge    = 50 * time.Millisecond
	sampleMaxAge = 10 * time.Second
)

// Run is a container as it runs.
type Run struct {
	ID, Name    string
	PID         int               // 0: it does not run
	Cgroups     map[string]string // controller to directory; "" on cgroup v2
	HostNetwork bool              // whose traffic is not the container's
}

func (r *Run) running() bool { return r.PID != 0 && len(r.Cgroups) > 0 }

// Look gives a container as it is now; false: it is gone.
type Look func(id string) (Run, bool)

// Collector samples containers for those who ask. Streams share one goroutine,
// which is there while there are streams; nothing is sampled when nobody asks.
type Collector struct {
	look  Look
	ctx   context.Context
	work  *sync.WaitGroup
	clock processors
	pool  sync.Pool // of *measurer

	mu      sync.Mutex
	streams map[string]map[chan *container.StatsResponse]struct{}
	running bool
	last    map[string]sample // of the containers that were asked for lately
}

// sample is what a later one needs to tell a processor's use.
type sample struct {
	at  time.Time
	pid int
	cpu container.CPUStats
}

// New makes a collector whose goroutine is counted in work and ends with ctx.
func New(ctx context.Context, work *sync.WaitGroup, look Look) *Collector {
	return &Collector{look: look, ctx: ctx, work: work, streams: map[string]map[chan *container.StatsResponse]struct{}{}, last: map[string]sample{}}
}

func (c *Collector) measurer() *measurer {
	if m, ok := c.pool.Get().(*measurer); ok {
		return m
	}
	return &measurer{clock: &c.clock, memory: machineMemory()}
}

func (c *Collector) release(m *measurer) {
	m.reader.Brief = false
	c.pool.Put(m)
}

// Once samples a container without one before.
func (c *Collector) Once(r Run) *container.StatsResponse {
	m := c.measurer()
	defer c.release(m)
	return m.full(&r)
}

// Twice samples containers with a sample of each before, so that the use of
// processors is known. While it waits for the second one it reads the rest.
func (c *Collector) Twice(ctx context.Context, ids []string, brief bool) ([]*container.StatsResponse, error) {
	m := c.measurer()
	defer c.release(m)
	m.reader.Brief = brief
	began := time.Now()
	runs := make([]*Run, len(ids))
	before := make([]sample, len(ids))
	wait := false
	for i, id := range ids {
		r, _ := c.look(id)
		runs[i] = &r
		if !r.running() {
			continue
		}
		var known bool
		if before[i], known = c.recent(&r, began); !known {
			before[i] = m.processors(&r)
			wait = true
		}
	}
	out := make([]*container.StatsResponse, len(ids))
	if brief {
		for i, r := range runs {
			out[i] = m.full(r)
		}
	}
	if wait {
		select {
		case <-time.After(sampleAge - time.Since(began)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for i, r := range runs {
		if !brief {
			out[i] = m.full(r)
		} else if now := m.processors(r); !now.at.IsZero() && !out[i].Read.IsZero() {
			out[i].Read, out[i].CPUStats = now.at, now.cpu
		} else { // it has ended
			out[i] = empty(r)
		}
		if b := before[i]; !b.at.IsZero() && !out[i].Read.IsZero() {
			out[i].PreRead, out[i].PreCPUStats = b.at, b.cpu
		}
		c.keep(r, out[i])
	}
	c.prune(began)
	return out, nil
}

// recent is the last sample of the same run, if it is of use.
func (c *Collector) recent(r *Run, now time.Time) (sample, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.last[r.ID]
	age := now.Sub(s.at)
	return s, ok && s.pid == r.PID && age >= sampleAge && age <= sampleMaxAge
}

func (c *Collector) keep(r *Run, s *container.StatsResponse) {
	if s.Read.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[r.ID] = sample{at: s.Read, pid: r.PID, cpu: s.CPUStats}
}

func (c *Collector) prune(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.last {
		if now.Sub(s.at) > sampleMaxAge {
			delete(c.last, id)
		}
	}
}

// Subscribe gives a container's samples, one each second, until leave. The
// channel is closed when the container is removed. A reader that is slow
// misses samples.
func (c *Collector) Subscribe(id string) (updates chan *container.StatsResponse, leave func()) {
	updates = make(chan *container.StatsResponse, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[id] == nil {
		c.streams[id] = map[chan *container.StatsResponse]struct{}{}
	}
	c.streams[id][updates] = struct{}{}
	if !c.running {
		c.running = true
		c.work.Go(c.run)
	}
	return updates, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.streams[id], updates)
		if len(c.streams[id]) == 0 {
			delete(c.streams, id)
		}
	}
}

// run samples for the streams, until there are none or the engine ends.
func (c *Collector) run() {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	m := c.measurer()
	defer c.release(m)
	for {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
		c.mu.Lock()
		if len(c.streams) == 0 {
			c.running = false
			c.mu.Unlock()
			return
		}
		ids := make([]string, 0, len(c.streams))
		for id := range c.streams {
			ids = append(ids, id)
		}
		c.mu.Unlock()
		for _, id := range ids {
			if r, ok := c.look(id); ok {
				c.send(id, m.full(&r))
			} else {
				c.end(id)
			}
		}
	}
}

func (c *Collector) send(id string, s *container.StatsResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch := range c.streams[id] {
		select {
		case ch <- s:
		default: // it still has the last one
		}
	}
}

func (c *Collector) end(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch := range c.streams[id] {
		close(ch)
	}
	delete(c.streams, id)
}
