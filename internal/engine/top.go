package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"hezi/internal/engine/ps"
)

// Top lists a container's processes as the host's ps shows them, with -ef or
// psArgs. Errors: Conflict for a container that does not run, InvalidArgument
// for arguments without a column of process ids.
func (e *Engine) Top(ctx context.Context, ref string, psArgs []string) (container.TopResponse, error) {
	if len(psArgs) == 0 {
		psArgs = []string{"-ef"}
	}
	if err := ps.Check(psArgs); err != nil {
		return container.TopResponse{}, err
	}
	c, err := e.find(ref)
	if err != nil {
		return container.TopResponse{}, err
	}
	r := c.latest.Load()
	switch {
	case r.State == container.StateRestarting:
		return container.TopResponse{}, errdefs.ErrConflict.WithMessage("Container " + r.ID + " is restarting, wait until the container is running")
	case !r.running():
		return container.TopResponse{}, notRunning(r)
	}
	pids, err := r.processes()
	if err != nil {
		return container.TopResponse{}, err
	}
	resp, err := ps.List(ctx, psArgs, pids)
	if err == nil {
		e.publish(r, events.ActionTop)
	}
	return resp, err
}

// processes are the ids, on the host, of what is in the container's cgroup.
func (r *record) processes() ([]int, error) {
	dir := ""
	for _, controller := range []string{"", "pids", "memory", "freezer", "cpu", "devices"} {
		if dir = r.Cgroups[controller]; dir != "" {
			break
		}
	}
	if dir == "" {
		return []int{r.PID}, nil
	}
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone while it was read
			return nil
		case err != nil:
			return err
		case d.Name() != "cgroup.procs":
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // gone, or threads whose process is listed above
		}
		if err != nil {
			return err
		}
		for f := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the processes of container %s: %w", r.ID, err)
	}
	slices.Sort(pids)
	return slices.DeleteFunc(slices.Compact(pids), r.foreign()), nil
}

// foreign says which processes of a container's cgroup are the engine's own:
// those in the host's pid namespace, of a container that has its own.
func (r *record) foreign() func(pid int) bool {
	namespace := func(pid string) string {
		link, err := os.Readlink(filepath.Join("/proc", pid, "ns/pid"))
		if err != nil {
			return "gone"
		}
		return link
	}
	host := namespace("self")
	if namespace(strconv.Itoa(r.PID)) == host {
		return func(int) bool { return false }
	}
	return func(pid int) bool { return namespace(strconv.Itoa(pid)) == host }
}
