package box

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// group is one box's cgroup, as package cgroup makes it.
type group interface {
	Paths() map[string]string // controller to directory on v1, "" to directory on v2
	FD() int                  // v2: the directory, for CLONE_INTO_CGROUP; else -1
	Add(pid int) error
	ApplyLate() error // limits that would hinder init itself
	Remove() error
}

// cgroups makes groups.
type cgroups interface {
	create(ctx context.Context, c *Cgroup, leaf string) (group, error)
}

// addToPaths puts a process into every directory once.
func addToPaths(paths map[string]string, pid int) error {
	var done []string
	for _, dir := range paths {
		if slices.Contains(done, dir) {
			continue
		}
		done = append(done, dir)
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return stepError(StepCgroup, dir, err, "cannot enter the container's cgroup")
		}
	}
	return nil
}
