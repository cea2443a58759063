package server

import (
	"errors"

	"hezi/internal/box/cgroup"
)

// OpenCgroupDirs is the OpenCgroup of the keeper.
func OpenCgroupDirs(paths map[string]string) (Cgroup, error) {
	if len(paths) == 0 {
		return nil, errors.New("the container has no cgroup of its own")
	}
	return cgroup.Dirs(paths), nil
}

var _ Cgroup = cgroup.Dirs(nil)
