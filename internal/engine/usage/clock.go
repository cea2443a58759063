package usage

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

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

// onlineCPUs counts what a list such as 0-3,5 names; 0: not known.
func onlineCPUs() (n uint32) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 0
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(b)), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || last < first {
			return 0
		}
		n += uint32(last - first + 1)
	}
	return n
}
