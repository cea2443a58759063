package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/engine/attach"
	"hezi/internal/engine/health"
	"hezi/internal/engine/spec"
	hostnet "hezi/internal/network"
	"hezi/internal/network/bindings"
	"hezi/internal/network/egress"
	"hezi/internal/network/hostfiles"
	"hezi/internal/timeline"
)

// Create makes a container's record, its volumes and the hold on its image.
func (e *Engine) Create(ctx context.Context, q CreateRequest) (_ container.CreateResponse, err error) {
	if q.Config == nil {
		return container.CreateResponse{}, errdefs.ErrInvalidArgument.WithMessage("config cannot be empty in order to create a container")
	}
	host := q.HostConfig
	if host == nil {
		host = &container.HostConfig{}
	}
	if err := spec.Check(q.Config, host); err != nil {
		return container.CreateResponse{}, err
	}
	noBridge := defaultNetwork(e.o.Networks.Resolve, q.Networking, host)
	wanted, err := attach.Check(q.Networking, host)
	if err == nil {
		wanted, err = wanted.Named(e.o.Networks.Resolve)
	}
	if err == nil && noBridge && wanted[network.NetworkBridge] != nil {
		err = hostnet.ErrNoBridge
	}
	if err != nil {
		return container.CreateResponse{}, err
	}
	if err := cmp.Or(e.checkHost(host), checkLinks(e.records, host)); err != nil {
		return container.CreateResponse{}, err
	}
	img, err := e.o.Images.Resolve(ctx, q.Config.Image, q.Platform)
	if name, _, ok := strings.Cut(q.Config.Image, "="); ok && name != "" && errdefs.IsInvalidArgument(err) {
		err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%v: for an environment variable write -e %s before the image", err, q.Config.Image))
	}
	if err != nil {
		return container.CreateResponse{}, err
	}
	lap := timeline.Of(ctx)
	lap.Mark("image", "the request is read and its image found")
	config, err := spec.Merge(*q.Config, img.Config.Config)
	if err != nil {
		return container.CreateResponse{}, err
	}
	if err := cmp.Or(health.Validate(&config, host.AutoRemove), attach.Egress(config.Labels, host.NetworkMode), e.o.Networks.MayRestrain(config.Labels[egress.Label])); err != nil {
		return container.CreateResponse{}, err
	}
	if config.StopSignal != "" {
		if _, err := parseSignal(config.StopSignal); err != nil {
			return container.CreateResponse{}, err
		}
	}
	if _, err := spec.Capabilities(host.CapAdd, host.CapDrop, host.Privileged); err != nil {
		return container.CreateResponse{}, err
	}
	e.complete(host, q.HostCgroups)
	warned, err := e.enforceAll(&host.Resources, config.Labels)
	if err != nil {
		return container.CreateResponse{}, err
	}
	r := &record{ID: newID(), Created: time.Now().UTC(), ImageID: img.ID.String(), Manifest: img.Manifest, Layers: img.Layers, Platform: "linux",
		Config: &config, HostConfig: host, Networks: wanted, State: container.StateCreated}
	from, err := e.inherited(host)
	if err != nil {
		return container.CreateResponse{}, err
	}
	if r.Points, err = spec.Points(&config, host, from, q.ReadOnlyTop); err != nil {
		return container.CreateResponse{}, err
	}
	if err := checkPoints(r.Points); err != nil {
		return container.CreateResponse{}, err
	}
	if err := (neighbours{e.records}).name(host); err != nil {
		return container.CreateResponse{}, err
	}
	if err := e.hostname(r); err != nil {
		return container.CreateResponse{}, err
	}
	if err := (mapper{e.records}).assign(r); err != nil {
		return container.CreateResponse{}, err
	}
	if err := (labeller{e.records}).assign(r); err != nil {
		e.o.Users.Give(r.ID)
		return container.CreateResponse{}, err
	}
	undoing := context.WithoutCancel(ctx)
	undo := []func() error{func() error { e.o.Users.Give(r.ID); labeller{e.records}.giveBack(r); return nil }}
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	if r.Name, err = e.names.Reserve(r.ID, q.Name); err != nil {
		return container.CreateResponse{}, err
	}
	undo = append(undo, func() error { e.names.Release(r.ID); return nil })
	if err = (output{e.records}).checkLog(r); err != nil { // the tag may be of its name
		return container.CreateResponse{}, err
	}
	lap.Mark("settings", "all that was asked for is checked")
	if err = e.o.Images.Pin(ctx, img, r.ID); err != nil {
		return container.CreateResponse{}, err
	}
	undo = append(undo, func() error { return e.o.Images.Unpin(undoing, r.ID) })
	if err = (roots{e.records}).make(ctx, r); err != nil {
		return container.CreateResponse{}, err
	}
	undo = append(undo, func() error { return e.o.Layers.Remove(r.ID) })
	if err = e.limitLayer(r); err != nil {
		return container.CreateResponse{}, err
	}
	lap.Mark("layer", "its writable layer")
	if err = e.makePoints(ctx, r, &undo); err != nil {
		return container.CreateResponse{}, err
	}
	lap.Mark("volumes", "volumes are made and held")
	c := newEntry(r)
	if err = e.save(c, r); err != nil {
		return container.CreateResponse{}, err
	}
	lap.Mark("record", "the container is stored")
	e.add(c)
	e.o.Images.Touch(img.ID)
	e.publish(r, events.ActionCreate)
	return container.CreateResponse{ID: r.ID, Warnings: append(warned, warnings(r)...)}, nil
}

// defaultNetwork says whether "default" is another network than the bridge, and writes that
// one's name in its place: it is none where the configuration has no bridge.
func defaultNetwork(resolve func(ref string) (id, name string, err error), n *network.NetworkingConfig, h *container.HostConfig) bool {
	_, name, err := resolve(network.NetworkDefault)
	if err != nil || name == network.NetworkBridge {
		return false
	}
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = container.NetworkMode(name)
	}
	if n != nil {
		if s, there := n.EndpointsConfig[network.NetworkDefault]; there {
			delete(n.EndpointsConfig, network.NetworkDefault)
			n.EndpointsConfig[name] = s
		}
	}
	return true
}

// limitLayer bounds a new layer by --storage-opt size.
func (e *records) limitLayer(r *record) error {
	size, err := spec.StorageSize(r.HostConfig)
	if size == 0 {
		size = e.o.Defaults.LayerSize
	}
	if err != nil || size == 0 {
		return err
	}
	return e.o.Layers.Limit(r.ID, size)
}

// complete fills what the request leaves to the daemon, so that it is shown
// and stays when the daemon's configuration changes.
func (e *Engine) complete(h *container.HostConfig, hostCgroups bool) {
	d := e.o.Defaults
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = "bridge"
	}
	if h.ShmSize == 0 {
		h.ShmSize = d.ShmSize
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if h.Init == nil && d.Init {
		h.Init = &d.Init
	}
	output{e.records}.completeLog(h)
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	if h.OomKillDisable == nil {
		h.OomKillDisable = new(false)
	}
	if g, err := e.support(); h.CgroupnsMode == "" && hostCgroups && err == nil && g.Version == 1 {
		h.CgroupnsMode = container.CgroupnsModeHost
	}
	if h.CgroupnsMode == "" {
		h.CgroupnsMode = container.CgroupnsModePrivate
	}
	if h.IpcMode == "" {
		if h.IpcMode = d.IPCMode; h.IpcMode == "" {
			h.IpcMode = "private"
		}
	}
	if h.UsernsMode == "" {
		h.UsernsMode = d.Userns
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if h.Runtime == "" {
		h.Runtime = e.o.Runtimes.Default()
	}
}

// checkHost refuses what this host cannot give, before anything is made.
func (e *records) checkHost(h *container.HostConfig) error {
	for p, list := range h.PortBindings {
		for _, b := range list {
			if _, _, _, err := bindings.Check(p, b); err != nil {
				return err
			}
		}
	}
	if err := e.o.Walls.Check(h); err != nil {
		return err
	}
	if _, err := e.o.Runtimes.Find(h.Runtime); err != nil {
		return err
	}
	if _, err := hostfiles.Hosts(nil, "", "", nil, h.ExtraHosts, hostGateways(&e.o)); err != nil {
		return err
	}
	parent := (scoping{e}).parent(h)
	if p := "/" + strings.Trim(parent, "/") + "/"; parent != "" && e.o.CgroupParent != "" && strings.HasPrefix(p, e.o.CgroupParent+"/") {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the cgroup parent %s is in the engine's own cgroup %s: name another", parent, e.o.CgroupParent))
	}
	if err := (scoping{e}).check(h); err != nil {
		return err
	}
	return spec.CheckSets(&h.Resources)
}

// hostname is the first part of the id, the host's in the host's network, and
// the other container's in another's.
func (e *Engine) hostname(r *record) error {
	mode, c := r.HostConfig.NetworkMode, r.Config
	switch {
	case mode.IsContainer():
		if c.Hostname != "" {
			return errdefs.ErrInvalidArgument.WithMessage("conflicting options: hostname and the network mode: a container that joins another's network has its name")
		}
		ref := mode.ConnectedContainer()
		o, err := e.entry(ref)
		if err != nil { // not the class of a missing image, which clients would pull
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		other := o.latest.Load()
		// The id stays true when the other one is renamed.
		r.HostConfig.NetworkMode = container.NetworkMode("container:" + other.ID)
		c.Hostname, c.Domainname = other.Config.Hostname, other.Config.Domainname
	case c.Hostname == "" && mode.IsHost():
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		c.Hostname = name
	case c.Hostname == "":
		c.Hostname = r.ID[:12]
	}
	return nil
}

func warnings(r *record) []string {
	list := []string{}
	if r.HostConfig.NetworkMode.IsHost() && len(r.HostConfig.PortBindings) > 0 {
		list = append(list, "Published ports are discarded when using host network mode")
	}
	return list
}

func newID() string {
	var id [32]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}
