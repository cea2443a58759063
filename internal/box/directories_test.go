package box

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// directoryGroup is a group without limits: directories.
type directoryGroup struct {
	paths map[string]string
	fd    int
}

func (g *directoryGroup) Paths() map[string]string { return g.paths }
func (g *directoryGroup) FD() int                  { return g.fd }
func (g *directoryGroup) Add(pid int) error        { return joinGroup(g.paths, "", pid) }
func (g *directoryGroup) ApplyLate() error         { return nil }

func (g *directoryGroup) Close() {
	if g.fd >= 0 {
		unix.Close(g.fd)
		g.fd = -1
	}
}

// Remove waits a moment for the kernel to let go of processes that ended.
func (g *directoryGroup) Remove() error {
	g.Close()
	var all error
	for _, dir := range g.paths {
		var err error
		for range 200 {
			if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
				err = nil
				break
			}
			time.Sleep(time.Millisecond)
		}
		all = errors.Join(all, err)
	}
	return all
}
