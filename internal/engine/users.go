package engine

import (
	"cmp"
	"fmt"

	"github.com/containerd/errdefs"

	"hezi/internal/box"
	"hezi/internal/engine/users"
)

// mapper says which ids a container has on the host.
type mapper struct{ *records }

// assign gives a new container the users of those whose namespaces it joins,
// or those that its mode, or the daemon's configuration, asks for.
func (e mapper) assign(r *record) error {
	h := r.HostConfig
	mode, err := users.Parse(h.UsernsMode)
	if err != nil || mode.Host {
		return err
	}
	joined, err := e.joins(r)
	if err != nil {
		return err
	}
	if r.Users == nil && !mode.Auto && e.o.Defaults.Remap == nil {
		return nil
	}
	conflict := func(text string) error { return errdefs.ErrInvalidArgument.WithMessage(text) }
	switch { // in Docker's words
	case h.Privileged:
		return conflict("privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode")
	case h.NetworkMode.IsHost():
		return conflict("cannot share the host's network namespace when user namespaces are enabled")
	case h.PidMode.IsHost():
		return conflict("cannot share the host PID namespace when user namespaces are enabled")
	case r.Users != nil:
		return nil
	case joined:
		return conflict("cannot join the namespaces of a container that has none of its own for users: add --userns=host, or give that one a user namespace too")
	}
	if !mode.Auto {
		r.Users = e.o.Defaults.Remap
		return nil
	}
	r.Users, err = e.o.Users.Take(r.ID, mode.Size)
	return err
}

// giveBack lets others have the ids of a container that is removed, once no
// container is left in its user namespace.
func (e mapper) giveBack(r *record) {
	if r.Users == nil {
		return
	}
	for _, o := range e.all() {
		if o.usersOf() == r.usersOf() {
			return
		}
	}
	e.o.Users.Give(r.usersOf())
}

// usersOf is the container whose ids r has: its own id, or that of the one it joins.
func (r *record) usersOf() string { return cmp.Or(r.UsersOf, r.ID) }

// joins finds the containers whose namespaces r joins. A namespace belongs to a
// user namespace, so that r is in theirs, which must be one.
func (e mapper) joins(r *record) (joined bool, err error) {
	h := r.HostConfig
	for _, ref := range []string{h.NetworkMode.ConnectedContainer(), h.PidMode.Container(), h.IpcMode.Container()} {
		if ref == "" {
			continue
		}
		c, err := e.entry(ref)
		if err != nil {
			return true, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		o, of := c.latest.Load(), "" // the host's
		if o.Users != nil {
			of = o.usersOf()
		}
		if joined && of != r.UsersOf {
			return true, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot join namespaces of containers in different user namespaces: %s is not in that of the others: add --userns=host", ref))
		}
		joined = true
		if r.UsersOf = of; of != "" {
			r.Users, h.UsernsMode = o.Users, o.HostConfig.UsernsMode
		}
	}
	return joined, nil
}

// host is a container in whose user namespace r starts: one of those it
// joins, as it is now; nil: r has its own, or none.
func (e mapper) host(r *record) (*box.Owner, error) {
	if r.UsersOf == "" {
		return nil, nil
	}
	h := r.HostConfig
	for _, ref := range []string{h.NetworkMode.ConnectedContainer(), h.PidMode.Container(), h.IpcMode.Container()} {
		if ref != "" {
			o, err := neighbours(e).running(r, ref)
			if err != nil {
				return nil, fmt.Errorf("failed to join user namespace: %w", err)
			}
			return &box.Owner{ID: o.ID}, nil
		}
	}
	return nil, nil
}

// modeOf is the mode of a namespace that may be the host's.
func modeOf(host bool, otherwise box.NamespaceMode) box.NamespaceMode {
	if host {
		return box.NamespaceHost
	}
	return otherwise
}

func joinOf(o *box.Owner) box.Namespace {
	if o == nil {
		return box.Namespace{}
	}
	return box.Namespace{Mode: box.NamespaceJoin, Of: o}
}
