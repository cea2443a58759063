package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	apievents "github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/api"
	"hezi/internal/box/apparmor"
	"hezi/internal/box/scope"
	"hezi/internal/box/seccomp"
	"hezi/internal/daemon/config"
	"hezi/internal/disk"
	"hezi/internal/engine"
	"hezi/internal/engine/cdi"
	"hezi/internal/engine/labels"
	"hezi/internal/engine/oci"
	"hezi/internal/engine/users"
	"hezi/internal/engine/volumes"
	"hezi/internal/events"
	"hezi/internal/image"
	"hezi/internal/image/lists"
	"hezi/internal/keeper"
	"hezi/internal/logs/ship"
	"hezi/internal/network"
	"hezi/internal/probe"
	"hezi/internal/snapshot/choose"
	"hezi/internal/store"
	"hezi/internal/volume"
)

// open wires the rooms, in the order in which they need each other, and
// restores what runs.
func (d *daemon) open(ctx context.Context, c *config.Config) (_ *rooms, err error) {
	r := &rooms{}
	var nets *network.Controller
	id := identity(c.DataRoot, c.ExecRoot)
	held := d.keeperInBackground(ctx, c, id)
	defer func() {
		<-held.done
		if err != nil {
			d.closing("rooms", r.close)
			if nets != nil {
				d.closing("network of a start that failed", nets.Dismantle)
			}
			d.closing("keeper of a start that failed", func() error { return d.abandonKeeper(held, id) })
		}
	}()

	reserve := disk.OpenReserve(c.DataRoot, c.DiskReserve, d.log)
	reserve.Begin()
	choice, err := choose.For(c.DataRoot, c.StorageDriver)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(filepath.Join(c.DataRoot, "hezi.db"))
	if err != nil {
		return nil, err
	}
	r.onClose(db.Close)
	if err := choice.Keep(c.DataRoot); err != nil {
		return nil, err
	}
	db.SetRelease(reserve.Release)
	broker := events.New()
	eng := new(atomic.Pointer[engine.Engine]) // rooms that are asked by it ask it back
	grown := new(atomic.Pointer[disk.Budget])
	imageOpts := imageOptions(c, choice.Driver, d.log, broker, eng)
	publish := imageOpts.Publish
	imageOpts.Publish = func(typ, action, id string, attributes map[string]string) {
		publish(typ, action, id, attributes)
		if b := grown.Load(); b != nil && resizes(action) {
			b.Changed()
		}
	}
	imageOpts.Release = reserve.Release
	imageOpts.Databases = map[string]func(func(*bolt.Tx) error) error{"hezi.db": db.Bolt().View}
	imgs, err := image.Open(ctx, imageOpts)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	r.onClose(imgs.Close)
	r.onReload = append(r.onReload, func(c *config.Config) { imgs.Reload(c.Registries()) })
	layers, err := openStorage(ctx, c, d.log, imgs, choice, r.onClose)
	if err != nil {
		return nil, err
	}
	vols, err := volume.Open(c.DataRoot, db)
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	o, err := d.networkOptions(ctx, c, id)
	if err != nil {
		return nil, err
	}
	o.Publish = broker.Publish
	o.InUse = func(id string) []string {
		if e := eng.Load(); e != nil {
			return engine.Attachments{Engine: e}.InNetwork(id)
		}
		return nil
	}
	o.Denied = denied(eng)
	nets, err = network.New(o)
	if err != nil {
		return nil, fmt.Errorf("the default network: %w", err)
	}
	r.onClose(nets.Close)
	if <-held.done; held.err != nil {
		return nil, held.err
	}
	devices := cdi.New(c.CDIDirs())
	others, err := oci.New(c.Runtimes, c.DefaultRuntime)
	if err != nil {
		return nil, err
	}
	r.onReload = append(r.onReload, func(c *config.Config) {
		if err := others.Set(c.Runtimes, c.DefaultRuntime); err != nil { // the configuration was checked
			d.log.Error("the runtimes stay as they were", "error", err)
		}
	})
	boxes, err := d.openEngine(ctx, c, id, engine.Options{
		CDI: devices, Runtimes: others,
		Store: db, Images: imgs, Layers: layers.Driver, Volumes: vols, Networks: nets, Keeper: held.client, Prober: probe.Prober{}, Events: broker, Log: d.log,
	}, r.onClose)
	if err != nil {
		return nil, err
	}
	r.onClose(boxes.Close)
	eng.Store(boxes)
	r.wireVolumes(c, vols, boxes, broker)
	if err := nets.Sweep(); err != nil {
		d.log.Warn("networks of containers that are gone", "error", err)
	}
	boxes.Begin()
	r.dismantle = func() error {
		if running, paused, _ := boxes.Counts(); running+paused > 0 {
			return nil
		}
		return errors.Join(nets.Dismantle(), d.stopRelay(c.ExecRoot), forgetEnded(held.client), d.stopKeeper(held.client, id))
	}
	room := openDisk(c, d.log, reserve, imgs, boxes, vols, layers.places)
	r.onClose(room.close)
	r.onReload = append(r.onReload, func(c *config.Config) { room.budget.SetLimits(c.DiskBudget) })
	grown.Store(room.budget)
	r.backend = api.Backend{Disk: room, Containers: boxes, Views: boxes, Streams: boxes, Limits: boxes, Execs: boxes, Files: boxes, Commits: engine.Commits{Engine: boxes, Images: image.Commits{Service: imgs}}, Snapshots: engine.Snapshots{Engine: boxes}, Mounts: engine.Mounts{Engine: boxes}, Images: imgs, Upkeep: image.Upkeep{Service: imgs}, Registries: imgs.Registries(), Transfers: imgs, Lists: lists.Lists{Registries: imgs.Registries()}, Volumes: vols, VolumeStates: volumes.Archives{States: volume.States{Store: vols}}, VolumeTrash: volume.Bin{Store: vols}, Networks: nets, Attachments: engine.Attachments{Engine: boxes}}
	sys := &systemRoom{storage: layers, conf: d.conf.Load, keeperPath: held.binary, keeper: held.client, backend: &r.backend, events: broker, warnings: nets.Warnings, devices: devices, runtimes: others}
	if sys.id, err = engineID(c.DataRoot); err != nil {
		return nil, err
	}
	r.backend.System = sys
	return r, nil
}

// wireVolumes tells the volumes whom to ask and to tell.
func (r *rooms) wireVolumes(c *config.Config, vols *volume.Store, boxes *engine.Engine, broker *events.Broker) {
	vols.SetInUse(boxes.VolumeUsers)
	vols.SetLimiter(volumeQuota{})
	vols.SetFreeze(engine.Freezer{Engine: boxes}.Freeze)
	vols.SetTrash(c.VolumeTrash)
	r.onReload = append(r.onReload, func(c *config.Config) { vols.SetTrash(c.VolumeTrash) })
	vols.SetPublish(func(action, name string, attributes map[string]string) {
		broker.Publish(apievents.Message{Type: apievents.VolumeEventType, Action: apievents.Action(action), Actor: apievents.Actor{ID: name, Attributes: attributes}})
	})
}

// openEngine opens the engine and takes back what ran on.
func (d *daemon) openEngine(ctx context.Context, c *config.Config, id string, o engine.Options, onClose func(func() error)) (*engine.Engine, error) {
	profile, err := seccomp.Load(c.SeccompProfile)
	if err != nil {
		return nil, err
	}
	if o.Walls.AppArmor, _ = apparmor.Supported(); o.Walls.AppArmor {
		if err := apparmor.Ensure(); err != nil {
			return nil, err
		}
	}
	if w := labels.Enable(c.SELinux); w != "" {
		d.log.Warn(w)
	}
	if err := labels.OfLayers(d.log, filepath.Join(c.DataRoot, "layers"), filepath.Join(c.DataRoot, "writable")); err != nil {
		return nil, err
	}
	o.DataRoot, o.ExecRoot, o.Walls.Seccomp, o.Walls.NoNewPrivileges, o.CgroupParent = c.DataRoot, c.ExecRoot, profile, c.NoNewPrivileges, cgroupParent(id)
	o.Defaults = engine.Defaults{
		LogDriver: c.LogDriver, LogOptions: c.LogOpts, ShmSize: c.DefaultShmSize, Init: c.Init,
		DNSSearch: c.DNSSearch, DNSOptions: c.DNSOpts, ResolvConf: c.ResolvConf, IPCMode: container.IpcMode(c.IPCMode), CgroupParent: c.CgroupParent, Userns: container.UsernsMode(c.Userns),
		Restarts: engine.Restarts{First: c.RestartFirst, Last: c.RestartLast, Reset: c.RestartReset, CrashLoop: c.CrashLoop},
	}
	if o.Defaults.LayerSize, err = c.LayerSize(); err != nil {
		return nil, err
	}
	if c.UsernsRemap != "" {
		if o.Defaults.Remap, err = users.Remap(c.UsernsRemap); err != nil {
			return nil, err
		}
		if o.Defaults.Remap == nil {
			d.log.Warn("User namespaces: root cannot be remapped with itself; user namespaces are OFF")
		}
	}
	ids, err := c.UserRange()
	if err != nil {
		return nil, err
	}
	o.Users = users.NewPool(ids)
	for _, s := range c.HostGateways {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("host-gateway-ips: %w", err)
		}
		o.Defaults.HostGateway = append(o.Defaults.HostGateway, a)
	}
	for _, s := range c.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("dns: %w", err)
		}
		o.Defaults.DNS = append(o.Defaults.DNS, a)
	}
	systemd := scope.New(c.DataRoot)
	o.Scopes, o.Systemd = systemd, c.SystemdCgroups()
	if o.Systemd {
		if err := systemd.Check(ctx); err != nil {
			return nil, errors.Join(err, systemd.Close())
		}
	}
	ships, err := ship.Open(filepath.Join(c.DataRoot, "unsent"), d.log)
	if err != nil {
		return nil, errors.Join(err, systemd.Close())
	}
	onClose(ships.Close)
	o.Shipper = ships
	e, err := engine.New(o)
	if err != nil {
		return nil, errors.Join(err, systemd.Close())
	}
	onClose(systemd.Close) // after the engine
	if err := e.Restore(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// cgroupParent is where containers are; see package cgroup.
func cgroupParent(id string) string {
	if id == "" {
		return "/hezi"
	}
	return "/hezi-" + id
}

// denied has the engine tell what a policy of egress denied a container.
func denied(eng *atomic.Pointer[engine.Engine]) func(string, network.Denied) {
	return func(id string, d network.Denied) {
		if e := eng.Load(); e != nil {
			engine.Attachments{Engine: e}.EgressDenied(id, d)
		}
	}
}

func imageOptions(c *config.Config, driver string, log *slog.Logger, broker *events.Broker, eng *atomic.Pointer[engine.Engine]) image.Options {
	return image.Options{
		Root: c.DataRoot, Driver: driver, Registries: c.Registries(), Log: log,
		InUse: func(_ context.Context, id digest.Digest) (running, stopped []string) {
			if e := eng.Load(); e != nil {
				return e.ImageUsers(id.String())
			}
			return nil, nil
		},
		Users: func() []image.Use {
			if e := eng.Load(); e != nil {
				return e.ImageUses()
			}
			return nil
		},
		Publish: func(typ, action, id string, attributes map[string]string) {
			broker.Publish(apievents.Message{Type: apievents.Type(typ), Action: apievents.Action(action), Actor: apievents.Actor{ID: id, Attributes: attributes}})
		},
	}
}

// forgetEnded acknowledges exits that the engine has stored and had no time left
// to acknowledge before it was closed.
func forgetEnded(k *keeper.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // for clients that read slowly
	defer cancel()
	list, err := k.List(ctx)
	for _, s := range list {
		if s.Exit == nil {
			continue
		}
		if ferr := k.Forget(ctx, s.ID, false); ferr != nil && !errdefs.IsNotFound(ferr) {
			err = errors.Join(err, ferr)
		}
	}
	return err
}

// stopKeeper ends the keeper and removes its cgroups.
func (d *daemon) stopKeeper(k *keeper.Client, id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := k.Stop(ctx); err != nil {
		return err
	}
	return keeper.RemoveCgroups(ctx, id)
}

// abandonKeeper ends the keeper of a start that failed, unless it has containers.
func (d *daemon) abandonKeeper(held *heldKeeper, id string) error {
	if held.err != nil {
		return nil // the start's error says it
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if list, err := held.client.List(ctx); err != nil || len(list) > 0 {
		return err
	}
	return d.stopKeeper(held.client, id)
}

// heldKeeper is the keeper once done is closed.
type heldKeeper struct {
	done   chan struct{}
	client *keeper.Client
	binary string
	err    error
}

// keeperInBackground starts the keeper while the other rooms open.
func (d *daemon) keeperInBackground(ctx context.Context, c *config.Config, id string) *heldKeeper {
	h := &heldKeeper{done: make(chan struct{})}
	go func() {
		defer close(h.done)
		h.client, h.binary, h.err = d.openKeeper(ctx, c, id)
	}()
	return h
}

// networkOptions of a configuration, which has checked the texts.
func (d *daemon) networkOptions(ctx context.Context, c *config.Config, id string) (network.Options, error) {
	o := network.Options{
		Identity: id, DataRoot: c.DataRoot, ExecRoot: c.ExecRoot, MTU: c.MTU, Bridge: c.Bridge, NoBridge: c.Bridge == "none", IPv6: c.IPv6, ICC: c.ICC,
		IPForward: c.IPForward, IPMasq: c.IPMasq, IPTables: c.IPTables, IP6Tables: c.IP6Tables, Pools: c.Pools, DefaultOptions: c.NetworkOptions,
		ResolvConf: c.ResolvConf, Judged: c.PublishPolicy == "firewall", BridgesOnly: c.BridgeNetfilter == "off", DirectRouting: c.DirectRouting,
	}
	if o.NoBridge {
		o.Bridge = ""
	}
	for _, f := range []struct {
		key, text string
		to        *netip.Prefix
	}{{"bip", c.BIP, &o.BIP}, {"bip6", c.BIP6, &o.BIP6}, {"fixed-cidr", c.FixedCIDR, &o.FixedCIDR}, {"fixed-cidr-v6", c.FixedCIDR6, &o.FixedCIDR6}} {
		if f.text == "" {
			continue
		}
		var err error
		if *f.to, err = netip.ParsePrefix(f.text); err != nil {
			return o, fmt.Errorf("%s: %w", f.key, err)
		}
	}
	for _, f := range []struct {
		key, text string
		to        *netip.Addr
	}{{"ip", c.IP, &o.DefaultBind}, {"default-gateway", c.Gateway, &o.Way}, {"default-gateway-v6", c.Gateway6, &o.Way6}} {
		if f.text == "" {
			continue
		}
		var err error
		if *f.to, err = netip.ParseAddr(f.text); err != nil {
			return o, fmt.Errorf("%s: %w", f.key, err)
		}
	}
	err := d.openRelay(ctx, c, id, &o)
	return o, err
}
