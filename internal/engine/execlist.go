package engine

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
	"hezi/internal/engine/execs"
)

// ExecSummary is one exec in a list. It is Hezi's own: Docker's API has no list.
type ExecSummary struct {
	ID            string
	ContainerID   string
	ContainerName string
	Command       []string
	User          string // "": the container's
	Tty           bool
	Created       time.Time
	Running       bool // its first process
	ExitCode      *int `json:",omitempty"`
	Pid           int  // of its first process, on the host; 0 when that has ended
	// Processes are the ids, on the host, of all that belongs to it: its first one
	// may have ended and others not.
	Processes []int
}

// ExecList lists the execs that have processes, of one container or of all
// (ref is ""), in the order of their making.
func (e *Execs) ExecList(_ context.Context, ref string) ([]ExecSummary, error) {
	boxes := e.entries()
	if ref != "" {
		c, err := e.find(ref)
		if err != nil {
			return nil, err
		}
		boxes = []*entry{c}
	}
	list := []ExecSummary{}
	for _, c := range boxes {
		r := c.latest.Load()
		if !r.running() {
			continue
		}
		for _, v := range e.index.Of(r.ID) {
			s := ExecSummary{ID: v.ID, ContainerID: r.ID, ContainerName: r.Name, Command: v.Config.Cmd, User: v.Config.User, Tty: v.Config.Tty,
				Created: v.Made, Running: v.Running, ExitCode: v.Exit, Pid: v.PID, Processes: r.execProcesses(v)}
			if s.Running || len(s.Processes) > 0 {
				list = append(list, s)
			}
		}
	}
	slices.SortFunc(list, func(a, b ExecSummary) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID)) })
	return list, nil
}

// execProcesses are the processes of an exec: those of its cgroup, or its first
// one where this host gives it none.
func (r *record) execProcesses(v *execs.Execution) []int {
	pids := []int{}
	if dir := cgroup.Inner(r.Cgroups, cgroup.ExecName(v.ID)); dir != "" {
		pids = append(pids, cgroup.Processes(dir)...)
		pids = slices.DeleteFunc(pids, r.foreign())
	}
	if len(pids) == 0 && v.Running && v.PID != 0 {
		pids = append(pids, v.PID)
	}
	return pids
}

// ExecKill sends a signal to all processes of an exec, also to those that its
// first one left behind; "" is SIGKILL. The id may be cut short.
func (e *Execs) ExecKill(ctx context.Context, id, name string) error {
	v, err := e.index.Resolve(id)
	if err != nil {
		return err
	}
	sig := unix.SIGKILL
	if name != "" {
		if sig, err = parseSignal(name); err != nil {
			return err
		}
	}
	err = e.o.Keeper.Signal(ctx, v.Container, v.ID, int(sig))
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return errdefs.ErrConflict.WithMessage("exec " + v.ID + " is not running")
	}
	return err
}
