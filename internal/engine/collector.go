package engine

import (
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// collector samples containers for those who ask. Streams share one goroutine,
// which is there while there are streams; nothing is sampled when nobody asks.
type collector struct {
	*records
	clock processors
	pool  sync.Pool // of *measurer

	mu      sync.Mutex
	streams map[*entry]map[chan *container.StatsResponse]struct{}
	running bool
	last    map[string]sample // of the containers that were asked for lately
}

// sample is what a later one needs to tell a processor's use.
type sample struct {
	at  time.Time
	pid int
	cpu container.CPUStats
}

func newCollector(r *records) *collector {
	return &collector{records: r, streams: map[*entry]map[chan *container.StatsResponse]struct{}{}, last: map[string]sample{}}
}

func (c *collector) measurer() *measurer {
	if m, ok := c.pool.Get().(*measurer); ok {
		return m
	}
	return &measurer{clock: &c.clock, memory: machineMemory()}
}

func (c *collector) release(m *measurer) { c.pool.Put(m) }

// machineMemory in bytes.
func machineMemory() uint64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return uint64(si.Totalram) * uint64(si.Unit)
}

// twice samples containers with a sample of each before, so that the use of
// processors is known.
func (c *collector) twice(ctx context.Context, list []*entry) ([]*container.StatsResponse, error) {
	m := c.measurer()
	defer c.release(m)
	began := time.Now()
	before := make([]sample, len(list))
	wait := false
	for i, e := range list {
		r := e.latest.Load()
		if !r.running() || len(r.Cgroups) == 0 {
			continue
		}
		if s, ok := c.recent(r, began); ok {
			before[i] = s
			continue
		}
		usage, err := m.reader.CPUUsage(r.Cgroups)
		if err != nil {
			continue // it has just ended
		}
		s := sample{at: time.Now().UTC(), pid: r.PID}
		s.cpu.CPUUsage.TotalUsage = usage
		s.cpu.SystemUsage, s.cpu.OnlineCPUs = m.clock.read()
		before[i], wait = s, true
	}
	if wait {
		select {
		case <-time.After(sampleAge):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	out := make([]*container.StatsResponse, len(list))
	for i, e := range list {
		r := e.latest.Load()
		s := m.full(r)
		if b := before[i]; b.pid == r.PID && !b.at.IsZero() && !s.Read.IsZero() {
			s.PreRead, s.PreCPUStats = b.at, b.cpu
		}
		out[i] = s
		c.keep(r, s)
	}
	c.prune(began)
	return out, nil
}

// recent is the last sample of the same run, if it is of use.
func (c *collector) recent(r *record, now time.Time) (sample, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.last[r.ID]
	age := now.Sub(s.at)
	return s, ok && s.pid == r.PID && age >= sampleAge && age <= sampleMaxAge
}

func (c *collector) keep(r *record, s *container.StatsResponse) {
	if s.Read.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[r.ID] = sample{at: s.Read, pid: r.PID, cpu: s.CPUStats}
}

func (c *collector) prune(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.last {
		if now.Sub(s.at) > sampleMaxAge {
			delete(c.last, id)
		}
	}
}

// subscribe gives a container's samples, one each second, until leave. The
// channel is closed when the container is removed. A reader that is slow
// misses samples.
func (c *collector) subscribe(e *entry) (updates chan *container.StatsResponse, leave func()) {
	updates = make(chan *container.StatsResponse, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[e] == nil {
		c.streams[e] = map[chan *container.StatsResponse]struct{}{}
	}
	c.streams[e][updates] = struct{}{}
	if !c.running {
		c.running = true
		c.work.Go(c.run)
	}
	return updates, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.streams[e], updates)
		if len(c.streams[e]) == 0 {
			delete(c.streams, e)
		}
	}
}

// run samples for the streams, until there are none or the engine ends.
func (c *collector) run() {
	tick := time.NewTicker(statsInterval)
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
		list := make([]*entry, 0, len(c.streams))
		for e := range c.streams {
			list = append(list, e)
		}
		c.mu.Unlock()
		for _, e := range list {
			r := e.latest.Load()
			if r.State == container.StateRemoving {
				c.end(e)
				continue
			}
			c.send(e, m.full(r))
		}
	}
}

func (c *collector) send(e *entry, s *container.StatsResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch := range c.streams[e] {
		select {
		case ch <- s:
		default: // it still has the last one
		}
	}
}

func (c *collector) end(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch := range c.streams[e] {
		close(ch)
	}
	delete(c.streams, e)
}

// processors counts the time of all processors together, in ns. /proc/stat, which
// Docker's engine reads, has it in steps of 10 ms: too coarse for two samples
// that are close to each other.
type processors struct {
	mu     sync.Mutex
	at     int64 // ns of CLOCK_MONOTONIC
	looked int64 // when the processors were counted
	total  uint64
	cpus   uint32
}

func (c *processors) read() (total uint64, cpus uint32) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it cannot fail
	c.mu.Lock()
	defer c.mu.Unlock()
	now := ts.Nano()
	if c.cpus == 0 || now-c.looked > int64(time.Second) {
		if n := onlineCPUs(); n > 0 {
			c.cpus, c.looked = n, now
		}
	}
	if now > c.at {
		c.total += uint64(now-c.at) * uint64(c.cpus)
		c.at = now
	}
	return c.total, c.cpus
}

func onlineCPUs() uint32 {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 0
	}
	list, err := parseSet(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return uint32(len(list))
}
