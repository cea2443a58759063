package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/engine/attach"
	"hezi/internal/network/hostfiles"
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
	e.linking.Store(true)
	return nil
}

// linked says whether the containers that one has links to on the default bridge can be
// reached there.
func linked(e *records, r *record) error {
	for _, l := range r.bridgeLinks() {
		name, alias, err := attach.ParseLink(l)
		if err != nil {
			return err
		}
		o, err := called(e, name)
		if err != nil { // removed since: the link is void, as in Docker, until there is another
			e.o.Log.Warn("a container starts without one of its links", "container", r.ID, "link", l, "error", err)
			continue
		}
		if !o.running() {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Cannot link to a non running container: /%s AS /%s/%s: start %s first", name, strings.TrimPrefix(r.Name, "/"), alias, name))
		}
		if o.Net.In(e.o.Networks.NetworkID(network.NetworkBridge)) == nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Cannot link to /%s, as it does not belong to the default network: connect it (network connect bridge %s), or put both into a network of your own, where names are found without links", name, name))
		}
	}
	return nil
}

// called is the container of a name, which may look like the id of another.
func called(e *records, name string) (*record, error) {
	c, err := e.entry(name)
	if err != nil {
		return nil, err
	}
	if r := c.latest.Load(); strings.TrimPrefix(r.Name, "/") == name {
		return r, nil
	}
	return nil, notFound(name)
}

// bridgeLinks are the container's links on the default bridge.
func (r *record) bridgeLinks() []string {
	if mode := cmp.Or(r.HostConfig.NetworkMode, network.NetworkBridge); !mode.IsBridge() && !mode.IsDefault() {
		return nil
	}
	return r.HostConfig.Links
}

// shownLinks are a container's links as Docker's clients expect them of inspect.
func shownLinks(r *record) []string {
	list := slices.Clone(r.bridgeLinks()) // in other networks they are of no account
	for i, l := range list {
		if name, alias, err := attach.ParseLink(l); err == nil {
			list[i] = "/" + name + ":/" + strings.TrimPrefix(r.Name, "/") + "/" + alias
		}
	}
	return list
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
		writeLinks(e.records, after)
	}
	return err
}

// linksOf are a container's links on the default bridge to those that run, by the names
// that Docker writes into /etc/hosts.
func linksOf(e *records, r *record) (list []hostfiles.Link) {
	for _, l := range r.bridgeLinks() {
		name, alias, err := attach.ParseLink(l)
		if err != nil {
			continue // refused when it was asked for
		}
		o, err := called(e, name)
		if err != nil {
			continue // removed since
		}
		at := o.Net.In(e.o.Networks.NetworkID(network.NetworkBridge))
		if at == nil || !o.running() {
			continue
		}
		k := hostfiles.Link{Names: []string{alias, o.Config.Hostname}}
		if name != alias {
			k.Names = append(k.Names, name)
		}
		for _, a := range []netip.Addr{at.Settings.IPAddress, at.Settings.GlobalIPv6Address} {
			if a.IsValid() {
				k.Addresses = append(k.Addresses, a)
			}
		}
		list = append(list, k)
	}
	return list
}

// relink has the containers that have a link to one, which has begun, ended or moved, write
// that into their /etc/hosts, where a former address would be believed before the name
// service. It returns at once: each of them is waited for.
func relink(e *records, to *record) {
	if !e.linking.Load() {
		return
	}
	for _, c := range e.entries() {
		if _, has := renamedLinks(c.latest.Load(), to.Name, ""); has { // one that starts is running in a moment
			relinkOne(e, c)
		}
	}
}

func relinkOne(e *records, c *entry) {
	if !c.relinking.CompareAndSwap(false, true) {
		return // one that waits already sees how it is then
	}
	e.work.Go(func() {
		_, unlock, err := e.lockEntry(e.ctx, c, c.latest.Load().ID)
		c.relinking.Store(false)
		if err != nil {
			return // removed meanwhile, or the engine ends
		}
		defer unlock()
		writeLinks(e, c.latest.Load())
	})
}

// writeLinks writes a locked container's links as they are now.
func writeLinks(e *records, r *record) {
	if !r.running() {
		return
	}
	list := linksOf(e, r)
	err := rewriteHosts(e.etcFile(r, "hosts"), func(text []byte) []byte { return hostfiles.Linked(text, list) })
	if err != nil {
		e.o.Log.Error("a container's /etc/hosts does not have its links as they are now", "container", r.ID, "error", err)
	}
}

// renameLinks has links on the default bridge lead to a container by its new name.
func renameLinks(e *records, old, name string) {
	if !e.linking.Load() {
		return
	}
	for _, r := range e.all() {
		if _, has := renamedLinks(r, old, name); has {
			renameLinksOf(e, r.ID, old, name)
		}
	}
}

func renameLinksOf(e *records, id, old, name string) {
	c, unlock, err := e.lockKnown(e.ctx, id)
	if err != nil {
		return // removed meanwhile, or the engine ends
	}
	defer unlock()
	links, has := renamedLinks(c.latest.Load(), old, name)
	if !has {
		return
	}
	after, err := e.change(c, func(r *record) {
		host := *r.HostConfig
		host.Links = links
		r.HostConfig = &host
	})
	if err != nil {
		e.o.Log.Error("a container's link does not have the new name of the other", "container", id, "name", name, "error", err)
		after = c.latest.Load()
	}
	if after.running() {
		e.o.Networks.Renamed(after.ID, after.attached().Requests())
		writeLinks(e, after)
	}
}

// renamedLinks are a container's links where old is called name; has: some lead there.
func renamedLinks(r *record, old, name string) (links []string, has bool) {
	links = slices.Clone(r.bridgeLinks())
	for i, l := range links {
		if to, alias, err := attach.ParseLink(l); err == nil && to == strings.TrimPrefix(old, "/") {
			links[i], has = strings.TrimPrefix(name, "/")+":"+alias, true
		}
	}
	return links, has
}
