package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/engine/attach"
)

// checkLinks reads --link on the default bridge, which is HostConfig.Links, and has
// it name the containers as they are called. In a user's network they are of no
// account, as in Docker: there the endpoint has links.
func checkLinks(e *records, h *container.HostConfig) error {
	mode := h.NetworkMode
	if len(h.Links) == 0 || mode.IsUserDefined() {
		return nil
	}
	if mode.IsContainer() {
		return errdefs.ErrInvalidArgument.WithMessage("conflicting options: container type network can't be used with links. This would result in undefined behavior")
	}
	if mode.IsHost() || mode.IsNone() {
		return errdefs.ErrInvalidArgument.WithMessage("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	}
	links := slices.Clone(h.Links)
	for i, l := range links {
		name, alias, err := attach.ParseLink(l)
		if err != nil {
			return err
		}
		to, err := e.entry(name)
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("could not get container for %s: %v", name, err))
		}
		if to.latest.Load().HostConfig.NetworkMode.IsHost() {
			return errdefs.ErrInvalidArgument.WithMessage("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		}
		links[i] = strings.TrimPrefix(to.latest.Load().Name, "/") + ":" + alias
	}
	h.Links = links
	return nil
}

// linked says whether the containers that one has links to on the default bridge are
// there.
func linked(e *records, r *record) error {
	for _, l := range r.bridgeLinks() {
		name, alias, err := attach.ParseLink(l)
		if err != nil {
			return err
		}
		to, err := e.entry(name)
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("could not get container for %s: %v", name, err))
		}
		o := to.latest.Load()
		if !o.running() {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Cannot link to a non running container: /%s AS /%s/%s", name, strings.TrimPrefix(r.Name, "/"), alias))
		}
		if o.Net.In(e.o.Networks.NetworkID(network.NetworkBridge)) == nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Cannot link to /%s, as it does not belong to the default network", name))
		}
	}
	return nil
}

// bridgeLinks are the container's links on the default bridge.
func (r *record) bridgeLinks() []string {
	if mode := cmp.Or(r.HostConfig.NetworkMode, network.NetworkBridge); !mode.IsBridge() && !mode.IsDefault() {
		return nil
	}
	return r.HostConfig.Links
}

// unlink takes a link on the default bridge away: ref is CONTAINER/ALIAS. A container that
// runs has the name no more from then on. Errors: NotFound, Conflict for a container's own name.
func unlink(ctx context.Context, e *Engine, ref string) error {
	name, alias, ok := strings.Cut(strings.TrimPrefix(ref, "/"), "/")
	if !ok {
		return errdefs.ErrConflict.WithMessage("Conflict, cannot remove the default link name of the container")
	}
	c, unlock, err := e.lock(ctx, name)
	if errdefs.IsNotFound(err) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("Cannot get parent /%s for link name /%s/%s", name, name, alias))
	}
	if err != nil {
		return err
	}
	defer unlock()
	host := *c.latest.Load().HostConfig
	had := len(host.Links)
	host.Links = slices.DeleteFunc(slices.Clone(host.Links), func(l string) bool {
		_, has, err := attach.ParseLink(l)
		return err == nil && has == alias
	})
	if len(host.Links) == had {
		return notFound("/" + name + "/" + alias)
	}
	after, err := e.change(c, func(r *record) { r.HostConfig = &host })
	if err == nil && after.running() {
		e.o.Networks.Renamed(after.ID, after.attached().Requests())
	}
	return err
}
