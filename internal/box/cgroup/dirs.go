package cgroup

import (
	"errors"
	"fmt"
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
func (c Dirs) Freeze() error { return c.with((*Group).Freeze) }

// Thaw lets them run.
func (c Dirs) Thaw() error { return c.with((*Group).Thaw) }

// OOMKills counts the processes that the kernel killed for lack of memory.
func (c Dirs) OOMKills() (n uint64, err error) {
	err = c.with(func(g *Group) error { n, err = g.OOMKills(); return err })
	return n, err
}

func (c Dirs) with(do func(*Group) error) error {
	g, err := Open(c)
	if err != nil {
		return err
	}
	return do(g)
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
