package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	rtPeriod  = "cpu.rt_period_us"
	rtRuntime = "cpu.rt_runtime_us"
)

// realtime gives a group its budget for real-time tasks. A new group has
// none, and a child gets no more than its parent has left, so the groups above
// are raised first.
func (g *Group) realtime(r Resources) error {
	if r.RTPeriod == 0 && r.RTRuntime == 0 {
		return nil
	}
	dir := g.paths["cpu"]
	if dir == "" || !exists(dir, rtRuntime) {
		return errors.New("this kernel has no real-time budget for a group of processes (CONFIG_RT_GROUP_SCHED on cgroup v1): leave out --cpu-rt-period and --cpu-rt-runtime")
	}
	if r.RTPeriod != 0 {
		if err := g.write(dir, rtPeriod, strconv.FormatUint(r.RTPeriod, 10)); err != nil {
			return err
		}
	}
	if r.RTRuntime == 0 {
		return nil
	}
	give := func() error {
		if err := raiseRealtime(filepath.Dir(dir), dir, share(dir, r.RTRuntime)); err != nil {
			return fmt.Errorf("the real-time budget of %d µs is not to be had: %w", r.RTRuntime, err)
		}
		return g.write(dir, rtRuntime, decimal(r.RTRuntime))
	}
	err := give()
	// A group that was just removed keeps its budget until the kernel has let go of it.
	for end := time.Now().Add(time.Second); errors.Is(err, unix.EINVAL) && time.Now().Before(end); err = give() {
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// share is the part of a processor that a runtime is in a group's period.
func share(dir string, runtime int64) float64 {
	text, err := read(dir, rtPeriod)
	if period := number(text); err == nil && period > 0 && runtime > 0 {
		return float64(runtime) / float64(period)
	}
	return 0
}

// raiseRealtime makes a parent's budget hold what its other children have and
// what child is to get. The root's is the machine's (sched_rt_runtime_us) and stays.
func raiseRealtime(dir, child string, wanted float64) error {
	for _, c := range children(dir) {
		if c == child {
			continue
		}
		if text, err := read(c, rtRuntime); err == nil {
			wanted += share(c, int64(number(text)))
		}
	}
	above := filepath.Dir(dir)
	if !exists(above, rtRuntime) { // dir is the hierarchy's root
		return nil
	}
	text, err := read(dir, rtRuntime)
	if err != nil {
		return err
	}
	if share(dir, int64(number(text))) >= wanted {
		return nil
	}
	if err := raiseRealtime(above, dir, wanted); err != nil {
		return err
	}
	period, err := read(dir, rtPeriod)
	if err != nil {
		return err
	}
	err = write(dir, rtRuntime, decimal(int64(wanted*float64(number(period)))+1))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrInvalid) {
		return fmt.Errorf("the machine's real-time budget (kernel.sched_rt_runtime_us) has less left: %w", err)
	}
	return err
}
