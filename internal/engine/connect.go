package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/engine/attach"
	hostnet "hezi/internal/network"
	"hezi/internal/network/hostfiles"
)

// Attachments are the containers' places in networks.
type Attachments struct{ *Engine }

// Connect attaches a container to a network: at once while it runs, else from its
// next start on. Errors: NotFound, InvalidArgument, PermissionDenied where the
// container or the network takes no more.
func (e Attachments) Connect(ctx context.Context, ref, net string, s *network.EndpointSettings) error {
	id, name, err := e.o.Networks.Resolve(net)
	if err != nil {
		return err
	}
	if s, err = attach.Connect(name, s); err != nil {
		return err
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	r := c.latest.Load()
	if err := mayConnect(r, name); err != nil {
		return err
	}
	if _, there := r.attachedTo(e.records, id); there {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("endpoint with name %s already exists in network %s", strings.TrimPrefix(r.Name, "/"), name))
	}
	box := r.Net
	if r.running() {
		if box, err = e.o.Networks.Connect(ctx, r.ID, r.attached().Request(name, s)); err != nil {
			return err
		}
		box, err = e.publishLate(ctx, r, box)
	}
	if err == nil {
		_, err = e.change(c, func(r *record) {
			wanted := maps.Clone(r.wanted())
			wanted[name] = s
			r.Networks, r.Net = wanted, box
		})
	}
	if err == nil {
		e.moved(r, box)
		e.resolves(ctx, r, box)
		if r.running() {
			e.o.Networks.Announce(events.ActionConnect, id, r.ID)
		}
	}
	if err != nil && r.running() {
		if _, back := e.o.Networks.Disconnect(context.WithoutCancel(ctx), r.ID, id); back != nil {
			e.o.Log.Error("take a connection back that could not be stored", "container", r.ID, "network", name, "error", back)
		}
	}
	return err
}

// Disconnect takes a container out of a network: also one that was removed while the
// container did not run, or with force whatever the container does.
func (e Attachments) Disconnect(ctx context.Context, ref, net string, force bool) error {
	id, name, missing := e.o.Networks.Resolve(net)
	if missing != nil && !errdefs.IsNotFound(missing) {
		return missing
	}
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	r := c.latest.Load()
	key, there := r.asksFor(e.records, id, net)
	switch {
	case missing != nil && (!there || r.running() && !force):
		return missing
	case r.HostConfig.NetworkMode.IsHost() && name == network.NetworkHost:
		return errdefs.ErrInvalidArgument.WithMessage("cannot disconnect container from host network - container was created in host network mode")
	case !there && !r.running():
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("container %s is not connected to the network %s", r.ID, name))
	case !there:
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("container %s is not connected to network %s", r.ID, name))
	}
	box := r.Net
	if r.running() && missing == nil {
		if box, err = e.o.Networks.Disconnect(ctx, r.ID, id); err != nil {
			return err
		}
	}
	_, err = e.change(c, func(r *record) {
		wanted := maps.Clone(r.wanted())
		delete(wanted, key)
		r.Networks, r.Net = wanted, box
	})
	if err == nil {
		e.moved(r, box)
		if r.running() && missing == nil {
			e.o.Networks.Announce(events.ActionDisconnect, id, r.ID)
		}
	}
	return err
}

// moved writes a running container's addresses into its /etc/hosts. The file is
// written in place, since it is mounted.
func (e Attachments) moved(before *record, box *hostnet.Sandbox) {
	had, has := before.Net.Addresses(), box.Addresses()
	if !before.running() || slices.Equal(had, has) {
		return
	}
	relink(e.records, before)
	lost := slices.DeleteFunc(slices.Clone(had), func(a netip.Addr) bool { return slices.Contains(has, a) })
	got := slices.DeleteFunc(slices.Clone(has), func(a netip.Addr) bool { return slices.Contains(had, a) })
	err := rewriteHosts(e.etcFile(before, "hosts"), func(text []byte) []byte {
		return hostfiles.Moved(text, lost, got, before.Config.Hostname, before.Config.Domainname)
	})
	if err != nil {
		e.o.Log.Error("a container's /etc/hosts does not have its new addresses", "container", before.ID, "error", err)
	}
}

// maxHosts bounds what a container may have made of its /etc/hosts, in bytes.
const maxHosts = 1 << 20

// openHosts does not wait for a container that has a lease on its file (fcntl(2)), which
// could hold the engine up for /proc/sys/fs/lease-break-time.
func openHosts(path string) (f *os.File, err error) {
	for range 25 {
		f, err = os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return f, err
}

// rewriteHosts changes a running container's /etc/hosts in place.
func rewriteHosts(path string, change func(text []byte) []byte) error {
	f, err := openHosts(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	if err != nil {
		return err
	}
	if len(text) > maxHosts {
		return fmt.Errorf("%s has more than %d bytes", path, maxHosts)
	}
	text = change(text)
	if _, err := f.WriteAt(text, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}

// mayConnect says why a container can be connected to no other network.
func mayConnect(r *record, name string) error {
	mode := r.HostConfig.NetworkMode
	switch _, none := r.wanted()[network.NetworkNone]; {
	case none || name == network.NetworkNone:
		return errdefs.ErrInvalidArgument.WithMessage("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case name == network.NetworkHost && !mode.IsHost():
		return errdefs.ErrInvalidArgument.WithMessage("cannot connect container to host network - container must be created in host network mode")
	case mode.IsContainer() || mode.IsHost():
		return errdefs.ErrInvalidArgument.WithMessage("container sharing network namespace with another container or host cannot be connected to any other network")
	}
	return nil
}

// wanted are the networks that the container asks for.
func (r *record) wanted() attach.Wanted {
	if r.Networks != nil {
		return r.Networks
	}
	w := attach.Wanted{}
	for _, q := range r.attached().Requests() {
		w[q.Network] = &network.EndpointSettings{}
	}
	return w
}

// attachedTo says by which name the container asks for a network.
func (r *record) attachedTo(e *records, id string) (name string, ok bool) {
	for name := range r.wanted() {
		if e.o.Networks.NetworkID(name) == id {
			return name, true
		}
	}
	return "", false
}

// asksFor is attachedTo, also of a network that is no more, by the name that was asked for.
func (r *record) asksFor(e *records, id, ref string) (name string, ok bool) {
	if id != "" {
		return r.attachedTo(e, id)
	}
	_, ok = r.wanted()[ref]
	return ref, ok
}

// InNetwork names the containers that ask for a network, running or not.
func (e Attachments) InNetwork(id string) (names []string) {
	for _, c := range e.entries() {
		if r := c.latest.Load(); !r.HostConfig.NetworkMode.IsContainer() {
			if _, ok := r.attachedTo(e.records, id); ok {
				names = append(names, strings.TrimPrefix(r.Name, "/"))
			}
		}
	}
	return names
}
