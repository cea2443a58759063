package engine

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
	"hezi/internal/engine/spec"
)

// neighbours finds the containers whose pid and ipc namespaces others join.
type neighbours struct{ *records }

// name puts the ids of containers in the place of their names, which stay true
// when those are renamed.
func (e neighbours) name(h *container.HostConfig) error {
	id := func(ref string) (string, error) {
		c, err := e.entry(ref)
		if err != nil { // not the class of a missing image, which clients would pull
			return "", errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		return "container:" + c.latest.Load().ID, nil
	}
	if h.PidMode.IsContainer() {
		mode, err := id(h.PidMode.Container())
		if err != nil {
			return err
		}
		h.PidMode = container.PidMode(mode)
	}
	if h.IpcMode.IsContainer() {
		mode, err := id(h.IpcMode.Container())
		if err != nil {
			return err
		}
		h.IpcMode = container.IpcMode(mode)
	}
	return nil
}

// of gives the containers that r joins, as they are now; nil where it joins none.
func (e neighbours) of(r *record) (pid, ipc *box.Owner, err error) {
	h := r.HostConfig
	if h.PidMode.IsContainer() {
		o, err := e.running(r, h.PidMode.Container())
		if err != nil {
			return nil, nil, fmt.Errorf("failed to join PID namespace: %w", err)
		}
		pid = &box.Owner{ID: o.ID}
	}
	if h.IpcMode.IsContainer() {
		o, err := e.running(r, h.IpcMode.Container())
		if err == nil {
			err = shareable(o)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("failed to join IPC namespace: %w", err)
		}
		ipc = &box.Owner{ID: o.ID}
	}
	return pid, ipc, nil
}

func (e neighbours) running(r *record, ref string) (*record, error) {
	c, err := e.entry(ref)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	o := c.latest.Load()
	switch {
	case o.ID == r.ID:
		return nil, errdefs.ErrInvalidArgument.WithMessage("container " + ref + " cannot join itself")
	case o.State == container.StateRestarting:
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is restarting, wait until the container is running", ref))
	case !o.running():
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is not running", ref))
	}
	return o, nil
}

// shareable refuses containers that keep their ipc namespace, or have at
// /dev/shm what does not go with it.
func shareable(o *record) error {
	m := o.HostConfig.IpcMode
	own := slices.ContainsFunc(o.Points, func(p spec.Point) bool { return p.Target == "/dev/shm" })
	if own || !m.IsShareable() && !m.IsHost() && !m.IsContainer() {
		return errdefs.ErrInvalidArgument.WithMessage("container " + o.ID + ": non-shareable IPC (hint: use IpcMode:shareable for the donor container)")
	}
	return nil
}
