package usage

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// group makes the files of a cgroup of version 2.
func group(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cpu.stat":       "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
		"memory.stat":    "anon 7\ninactive_file 11\n",
		"memory.current": "4096\n", "memory.max": "max\n", "memory.events": "low 0\noom 6\n", "pids.current": "2\n", "pids.max": "9\n",
		"io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2\nbroken\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{"": dir}
}

func collector(t *testing.T, runs map[string]Run) (*Collector, *sync.WaitGroup) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	t.Cleanup(func() { cancel(); work.Wait() })
	return New(ctx, &work, func(id string) (Run, bool) { r, ok := runs[id]; return r, ok }), &work
}

func TestSamplesHaveOneBefore(t *testing.T) {
	on, off := Run{ID: "on", Name: "n", PID: os.Getpid(), Cgroups: group(t)}, Run{ID: "off"}
	c, _ := collector(t, map[string]Run{"on": on, "off": off})
	for _, brief := range []bool{true, false} {
		list, err := c.Twice(t.Context(), []string{"on", "off"}, brief)
		if err != nil {
			t.Fatal(err)
		}
		s := list[0]
		if s.Name != "/n" || s.PreRead.IsZero() || !s.PreRead.Before(s.Read) || s.PreCPUStats.SystemUsage == 0 || s.CPUStats.SystemUsage <= s.PreCPUStats.SystemUsage {
			t.Errorf("brief %v: %+v", brief, s)
		}
		if s.CPUStats.CPUUsage.TotalUsage != 5_000_000 || s.MemoryStats.Usage != 4096 || s.MemoryStats.Limit == 0 || s.MemoryStats.Stats["inactive_file"] != 11 || s.PidsStats.Current != 2 || len(s.BlkioStats.IoServiceBytesRecursive) != 2 {
			t.Errorf("brief %v: %+v", brief, s)
		}
		if !brief && (s.PidsStats.Limit != 9 || s.MemoryStats.Failcnt != 6 || s.CPUStats.ThrottlingData.ThrottledPeriods != 3 || s.MemoryStats.Stats["anon"] != 7 || s.CPUStats.CPUUsage.UsageInUsermode != 3_000_000) {
			t.Errorf("%+v", s)
		}
		if list[1].ID != "off" || !list[1].Read.IsZero() {
			t.Errorf("what does not run has %+v", list[1])
		}
		for s.PreRead.IsZero() || time.Since(s.Read) < 2*sampleAge { // the next one has this one before it
			time.Sleep(time.Millisecond)
		}
		next, err := c.Twice(t.Context(), []string{"on"}, brief)
		if err != nil || !next[0].PreRead.Equal(s.Read) {
			t.Errorf("brief %v: the sample before is of %v, not %v (%v)", brief, next[0].PreRead, s.Read, err)
		}
	}
	m := c.measurer()
	m.reader.Opens, m.reader.Brief = 0, true
	m.full(&on)
	m.processors(&on)
	if m.reader.Opens > 7 {
		t.Errorf("%d files were opened for what people look at", m.reader.Opens)
	}
	if s := c.Once(on); !s.PreRead.IsZero() || s.Read.IsZero() {
		t.Errorf("%+v", s)
	}
}

func TestNobodyAsks(t *testing.T) {
	runs := map[string]Run{"a": {ID: "a", PID: os.Getpid(), Cgroups: group(t)}}
	c, work := collector(t, runs)
	first, leaveFirst := c.Subscribe("a")
	second, leaveSecond := c.Subscribe("a")
	gone, leaveGone := c.Subscribe("removed")
	if s := <-first; s.ID != "a" || s.Read.IsZero() {
		t.Errorf("%+v", s)
	}
	<-second
	if _, ok := <-gone; ok {
		t.Error("a container that is gone was sampled")
	}
	leaveFirst()
	leaveSecond()
	leaveGone()
	work.Wait() // the goroutine ends with the last stream
	if c.running || len(c.streams) > 0 {
		t.Errorf("it samples on: %v", c.streams)
	}
}
