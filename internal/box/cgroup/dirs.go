package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Dirs is a container's cgroup by its directories: controller to directory on v1,
// "" to directory on v2.
type Dirs map[string]string

func (c Dirs) v2() string { return c[""] }

// Kill kills everything inside: by cgroup.kill (Linux 5.14), else by signals
// while it is frozen, so that no fork escapes.
func (c Dirs) Kill() error {
	if d := c.v2(); d != "" && exists(d, "cgroup.kill") {
		return write(d, "cgroup.kill", "1")
	}
	if c.Freeze() == nil {
		defer c.Thaw()
	}
	var errs []error
	for _, d := range c { // each has them all
		for _, pid := range Processes(d) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				errs = append(errs, err)
			}
		}
		break
	}
	return errors.Join(errs...)
}

// Freeze returns once all processes stand still.
func (c Dirs) Freeze() error { return c.setFrozen(true) }

// Thaw lets them run.
func (c Dirs) Thaw() error { return c.setFrozen(false) }

func (c Dirs) setFrozen(on bool) error {
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
func (c Dirs) OOMKills() (uint64, error) {
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
func (c Dirs) Remove() error {
	var errs []error
	for _, d := range c {
		err := unix.Rmdir(d)
		for i := 0; err == unix.EBUSY && i < 200; i++ {
			if kerr := c.Kill(); kerr != nil {
				return kerr
			}
			RemoveInner(d) // groups of execs, and of who made some inside
			time.Sleep(time.Millisecond)
			err = unix.Rmdir(d)
		}
		if err != nil && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("remove %s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

// Populated says whether a process is inside.
func (c Dirs) Populated() bool {
	for _, d := range c {
		if len(Processes(d)) > 0 {
			return true
		}
	}
	return false
}
