package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stats are a container's counters. What the host does not count is 0 or nil.
type Stats struct {
	MemoryCurrent  uint64            // bytes, page cache included
	MemoryMax      uint64            // bytes, the most there was; v1
	MemoryLimit    uint64            // bytes; 0: none
	MemoryFailures uint64            // how often the limit was hit (v1), or out of memory (v2)
	Memory         map[string]uint64 // memory.stat, as the host's version has it

	CPUUsage, CPUUser, CPUKernel uint64   // ns
	CPUs                         []uint64 // ns of each; v1
	Periods, ThrottledPeriods    uint64
	ThrottledTime                uint64 // ns

	PidsCurrent uint64
	PidsLimit   uint64 // 0: none

	IOBytes, IOps []DeviceCount
}

// DeviceCount counts one kind of operation (Read, Write ...) on a block device.
type DeviceCount struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// Reader reads counters, with one buffer for all files. One goroutine at a
// time may use it.
type Reader struct {
	buf   []byte
	Opens int // files that were opened
	// Brief leaves out what `stats` has no column for, and the processors' time,
	// which it reads at the moments that it needs.
	Brief bool
}

// CPUUsage reads only the time on processors, in ns.
func (r *Reader) CPUUsage(paths map[string]string) (uint64, error) {
	if dir := paths[""]; dir != "" && len(paths) == 1 {
		b, err := r.read(dir, "cpu.stat")
		if err != nil {
			return 0, gone(dir)
		}
		return 1000 * field(string(b), "usage_usec"), nil
	}
	dir := paths["cpuacct"]
	b, err := r.read(dir, "cpuacct.usage")
	if err != nil {
		return 0, gone(dir)
	}
	return number(string(b)), nil
}

// Stats reads all counters of a group. An absent one is 0; a group that is
// gone is an error: os.ErrNotExist.
func (r *Reader) Stats(paths map[string]string) (Stats, error) {
	var s Stats
	if dir := paths[""]; dir != "" && len(paths) == 1 {
		if !r.statsV2(dir, &s) {
			return s, gone(dir)
		}
		return s, nil
	}
	if !r.statsV1(paths, &s) {
		for _, dir := range paths {
			return s, gone(dir)
		}
		return s, gone("")
	}
	return s, nil
}

func gone(dir string) error { return fmt.Errorf("the cgroup %s is gone: %w", dir, os.ErrNotExist) }

// read gives a file's content without the space around it, valid until the next read.
func (r *Reader) read(dir, name string) ([]byte, error) {
	if dir == "" {
		return nil, os.ErrNotExist
	}
	if r.buf == nil {
		r.buf = make([]byte, 16<<10)
	}
	r.Opens++
	fd, err := openRetry(dir+"/"+name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for n := 0; ; {
		if n == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		m, err := unix.Read(fd, r.buf[n:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case m == 0:
			return bytes.TrimSpace(r.buf[:n]), nil
		default:
			n += m
		}
	}
}

func (r *Reader) number(dir, name string) uint64 {
	b, err := r.read(dir, name)
	if err != nil {
		return 0
	}
	return number(string(b)) // "max" is 0: no limit
}

// keys reads lines of "name value" into to.
func (r *Reader) keys(dir, name string, to func(key string, value uint64)) bool {
	b, err := r.read(dir, name)
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if k, v, ok := bytes.Cut(bytes.TrimSpace(line), []byte{' '}); ok {
			to(string(k), number(string(v)))
		}
	}
	return true
}

func (r *Reader) statsV1(paths map[string]string, s *Stats) (seen bool) {
	if dir := paths["memory"]; dir != "" {
		seen = r.memory(dir, s) || seen
		s.MemoryCurrent, s.MemoryLimit = r.number(dir, "memory.usage_in_bytes"), s.Memory["hierarchical_memory_limit"]
		if s.MemoryLimit >= 1<<62 { // v1's word for none
			s.MemoryLimit = 0
		}
	}
	if dir := paths["pids"]; dir != "" {
		if b, err := r.read(dir, "pids.current"); err == nil {
			seen = true
			s.PidsCurrent = number(string(b))
		}
	}
	s.IOBytes = r.blkio(paths["blkio"], "blkio.throttle.io_service_bytes_recursive")
	if !r.Brief {
		seen = r.moreV1(paths, s) || seen
	}
	return seen
}

// moreV1 reads what is for programs only.
func (r *Reader) moreV1(paths map[string]string, s *Stats) (seen bool) {
	if b, err := r.read(paths["cpuacct"], "cpuacct.usage_percpu"); err == nil {
		seen = true
		for f := range bytes.FieldsSeq(b) {
			n := number(string(f))
			s.CPUs = append(s.CPUs, n)
			s.CPUUsage += n
		}
	}
	// The kernel counts these by ticks: user and system time of each processor.
	if b, err := r.read(paths["cpuacct"], "cpuacct.usage_all"); err == nil {
		for line := range bytes.Lines(b) {
			if f := bytes.Fields(line); len(f) == 3 && f[0][0] != 'c' {
				s.CPUUser += number(string(f[1]))
				s.CPUKernel += number(string(f[2]))
			}
		}
	}
	r.keys(paths["cpu"], "cpu.stat", func(k string, v uint64) {
		switch k {
		case "nr_periods":
			s.Periods = v
		case "nr_throttled":
			s.ThrottledPeriods = v
		case "throttled_time":
			s.ThrottledTime = v
		}
	})
	s.MemoryMax, s.MemoryFailures = r.number(paths["memory"], "memory.max_usage_in_bytes"), r.number(paths["memory"], "memory.failcnt")
	s.PidsLimit = r.number(paths["pids"], "pids.max")
	s.IOps = r.blkio(paths["blkio"], "blkio.throttle.io_serviced_recursive")
	return seen
}

// memory reads memory.stat.
func (r *Reader) memory(dir string, s *Stats) bool {
	s.Memory = make(map[string]uint64, 8)
	return r.keys(dir, "memory.stat", func(k string, v uint64) {
		switch {
		case !r.Brief, k == "inactive_file", k == "total_inactive_file", k == "hierarchical_memory_limit":
			s.Memory[k] = v
		}
	})
}

// blkio reads lines of "major:minor operation count".
func (r *Reader) blkio(dir, name string) (list []DeviceCount) {
	b, err := r.read(dir, name)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue // the total
		}
		if major, minor, ok := device(f[0]); ok {
			list = append(list, DeviceCount{major, minor, f[1], number(f[2])})
		}
	}
	return list
}

func device(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	if !ok {
		return 0, 0, false
	}
	major, err := strconv.ParseUint(a, 10, 32)
	if err != nil {
		return 0, 0, false
	}
	minor, err = strconv.ParseUint(b, 10, 32)
	return major, minor, err == nil
}

func (r *Reader) statsV2(dir string, s *Stats) (seen bool) {
	seen = r.memory(dir, s)
	s.MemoryCurrent, s.MemoryLimit = r.number(dir, "memory.current"), r.number(dir, "memory.max")
	s.PidsCurrent = r.number(dir, "pids.current")
	if !r.Brief {
		seen = r.processorsV2(dir, s) || seen
		s.PidsLimit = r.number(dir, "pids.max")
		r.keys(dir, "memory.events", func(k string, v uint64) {
			if k == "oom" {
				s.MemoryFailures = v
			}
		})
	}
	b, err := r.read(dir, "io.stat")
	if err != nil {
		return seen
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		major, minor, ok := device(f[0])
		if !ok {
			continue
		}
		for _, kv := range f[1:] {
			switch k, v, _ := strings.Cut(kv, "="); k {
			case "rbytes":
				s.IOBytes = append(s.IOBytes, DeviceCount{major, minor, "read", number(v)})
			case "wbytes":
				s.IOBytes = append(s.IOBytes, DeviceCount{major, minor, "write", number(v)})
			}
		}
	}
	return seen
}

func (r *Reader) processorsV2(dir string, s *Stats) bool {
	return r.keys(dir, "cpu.stat", func(k string, v uint64) {
		switch k {
		case "usage_usec":
			s.CPUUsage = 1000 * v
		case "user_usec":
			s.CPUUser = 1000 * v
		case "system_usec":
			s.CPUKernel = 1000 * v
		case "nr_periods":
			s.Periods = v
		case "nr_throttled":
			s.ThrottledPeriods = v
		case "throttled_usec":
			s.ThrottledTime = 1000 * v
		}
	})
}

// Lines reads any file of the kernel's that has lines of words.
func (r *Reader) Lines(dir, name string, to func(words []string)) error {
	b, err := r.read(dir, name)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 {
			to(f)
		}
	}
	return nil
}
