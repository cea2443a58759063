package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
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
func (c cgroupDirs) Freeze() error { return c.with((*cgroup.Group).Freeze) }

// Thaw lets them run.
func (c cgroupDirs) Thaw() error { return c.with((*cgroup.Group).Thaw) }

// OOMKills counts the processes that the kernel killed for lack of memory.
func (c cgroupDirs) OOMKills() (n uint64, err error) {
	err = c.with(func(g *cgroup.Group) error { n, err = g.OOMKills(); return err })
	return n, err
}

func (c cgroupDirs) with(do func(*cgroup.Group) error) error {
	g, err := cgroup.Open(c)
	if err != nil {
		return err
	}
	return do(g)
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
