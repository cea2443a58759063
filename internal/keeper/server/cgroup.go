package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hezi/internal/box/cgroup"

	"golang.org/x/sys/unix"
)

// cgroupDirs is a container's cgroup by its directories, as box.Proc has them.
type cgroupDirs map[string]string

// OpenCgroupDirs is the OpenCgroup of the keeper.
func OpenCgroupDirs(paths map[string]string) (Cgroup, error) {
	if len(paths) == 0 {
		return nil, errors.New("the container has no cgroup of its own")
	}
	return cgroupDirs(paths), nil
}

var _ Cgroup = cgroupDirs(nil)

func (c cgroupDirs) v2() string { return c[""] }

// Kill kills everything inside: by cgroup.kill (Linux 5.14), else by signals
// while it is frozen, so that no fork escapes.
func (c cgroupDirs) Kill() error {
	if d := c.v2(); d != "" {
		err := os.WriteFile(filepath.Join(d, "cgroup.kill"), []byte("1"), 0)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if c.Freeze() == nil {
		defer c.Thaw()
	}
	var errs []error
	for _, d := range c { // each has them all
		for _, pid := range cgroup.Processes(d) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				errs = append(errs, err)
			}
		}
		break
	}
	return errors.Join(errs...)
}

// Freeze returns once all processes stand still.
func (c cgroupDirs) Freeze() error { return c.setFrozen(true) }

// Thaw lets them run.
func (c cgroupDirs) Thaw() error { return c.setFrozen(false) }

func (c cgroupDirs) setFrozen(on bool) error {
	file, value, state, want := "", "THAWED", "freezer.state", "THAWED"
	if on {
		value, want = "FROZEN", "FROZEN"
	}
	if d := c["freezer"]; d != "" {
		file, state = filepath.Join(d, "freezer.state"), filepath.Join(d, "freezer.state")
	} else if d := c.v2(); d != "" {
		file, state, value, want = filepath.Join(d, "cgroup.freeze"), filepath.Join(d, "cgroup.events"), "0", "frozen 0"
		if on {
			value, want = "1", "frozen 1"
		}
	} else {
		return errors.New("this host has no freezer cgroup: containers cannot be paused")
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("freeze or thaw the container: %w", err)
	}
	for range 2000 {
		b, err := os.ReadFile(state)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(want)) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("the container's processes did not become %s within 2 s", want)
}

// OOMKills counts the processes that the kernel killed for lack of memory.
func (c cgroupDirs) OOMKills() (uint64, error) {
	file := filepath.Join(c["memory"], "memory.oom_control")
	if c["memory"] == "" {
		file = filepath.Join(c.v2(), "memory.events")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return strconv.ParseUint(f[1], 10, 64)
		}
	}
	return 0, nil
}

// Remove removes the directories, killing what is left.
func (c cgroupDirs) Remove() error {
	var errs []error
	for _, d := range c {
		err := unix.Rmdir(d)
		for i := 0; err == unix.EBUSY && i < 200; i++ {
			if kerr := c.Kill(); kerr != nil {
				return kerr
			}
			cgroup.RemoveInner(d) // groups of execs, and of who made some inside
			time.Sleep(time.Millisecond)
			err = unix.Rmdir(d)
		}
		if err != nil && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("remove %s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}
