package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"

	"hezi/internal/api"
	"hezi/internal/daemon/config"
	"hezi/internal/events"
	"hezi/internal/keeper"
	"hezi/internal/network"
	"hezi/internal/store"
	"hezi/internal/volume"
)

// open wires the rooms, in the order in which they need each other. The rooms
// of images and of containers are not in this build: the API refuses what
// needs them, by name.
func (d *daemon) open(ctx context.Context, c *config.Config) (_ *rooms, err error) {
	r := &rooms{}
	defer func() {
		if err != nil {
			d.closing("rooms", r.close)
		}
	}()
	id := identity(c.DataRoot, c.ExecRoot)
	held := d.keeperInBackground(ctx, c, id)
	defer func() { <-held.done }()

	db, err := store.Open(filepath.Join(c.DataRoot, "hezi.db"))
	if err != nil {
		return nil, err
	}
	r.onClose(db.Close)
	broker := events.New()
	vols, err := volume.Open(c.DataRoot, db)
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	o, err := networkOptions(c, id)
	if err != nil {
		return nil, err
	}
	o.Publish = broker.Publish
	nets, err := network.New(o)
	if err != nil {
		return nil, fmt.Errorf("the default network: %w", err)
	}
	r.onClose(nets.Close)
	if <-held.done; held.err != nil {
		return nil, held.err
	}
	r.backend = api.Backend{Volumes: vols, Networks: nets}
	sys := &systemRoom{conf: d.conf.Load, keeperPath: held.binary, keeper: held.client, backend: &r.backend, events: broker, warnings: nets.Warnings}
	if sys.id, err = engineID(c.DataRoot); err != nil {
		return nil, err
	}
	r.backend.System = sys
	return r, nil
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
func networkOptions(c *config.Config, id string) (network.Options, error) {
	o := network.Options{
		Identity: id, DataRoot: c.DataRoot, ExecRoot: c.ExecRoot, MTU: c.MTU,
		IPForward: c.IPForward, IPMasq: c.IPMasq, IPTables: true,
	}
	var err error
	if c.BIP != "" {
		if o.BIP, err = netip.ParsePrefix(c.BIP); err != nil {
			return o, fmt.Errorf("bip: %w", err)
		}
	}
	if c.FixedCIDR != "" {
		if o.FixedCIDR, err = netip.ParsePrefix(c.FixedCIDR); err != nil {
			return o, fmt.Errorf("fixed-cidr: %w", err)
		}
	}
	if c.IP != "" {
		if o.DefaultBind, err = netip.ParseAddr(c.IP); err != nil {
			return o, fmt.Errorf("ip: %w", err)
		}
	}
	return o, nil
}
