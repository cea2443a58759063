package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/disk"
	"hezi/internal/network/filters"
	"hezi/internal/network/ipam"
	"hezi/internal/network/nft"
	"hezi/internal/network/options"
	"hezi/internal/network/taken"
)

// Create makes a network and returns its id: when it answers, containers can join
// it, also after a power cut. Errors: PermissionDenied for a name of ours, Conflict
// for a name or a bridge that is taken, InvalidArgument, also where no subnet is left.
func (c *Controller) Create(_ context.Context, q network.CreateRequest) (id string, err error) {
	conf, err := c.check(q)
	if err != nil {
		return "", err
	}
	c.making.Lock()
	defer c.making.Unlock()
	unlock, err := taken.Lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := c.free(conf); err != nil {
		return "", err
	}
	if conf.Made, err = c.absent(conf); err != nil {
		return "", err
	}
	if err := c.choose(&conf); err != nil {
		return "", err
	}
	l, err := newLan(conf)
	if err != nil {
		return "", err
	}
	l.direct = c.o.DirectRouting
	if err := writeState(c.file(l.ID), conf); err != nil {
		return "", err
	}
	undo := func() {
		logFailure("remove a network that could not be made", os.Remove(c.file(l.ID)))
		logFailure("remove a network that could not be made", c.lower(l))
	}
	if err := c.establish(l); err != nil {
		undo()
		return "", err
	}
	c.mu.Lock()
	c.lans[l.ID] = l
	c.mu.Unlock()
	c.announce(events.ActionCreate, l, "")
	return l.ID, nil
}

// establish makes the device and the rules of a network.
func (c *registry) establish(l *lan) error {
	if err := c.raise(l); err != nil {
		return err
	}
	if !l.bridged() {
		return nil
	}
	if c.o.IPForward && l.IPv6 {
		if err := c.forward(l); err != nil {
			return err
		}
	}
	if c.table != nil {
		if err := c.table.SetNetwork(l.rules(c.o.IPMasq)); err != nil {
			return err
		}
	}
	return c.routeLocalnet(l)
}

// ready makes what a network lacks since the engine started without it, as when its
// parent device comes later.
func (c *registry) ready(l *lan) error {
	c.mu.Lock()
	there := l.index != 0 || l.Driver == driverNull
	c.mu.Unlock()
	if there {
		return nil
	}
	c.making.Lock()
	defer c.making.Unlock()
	c.mu.Lock()
	n := *l
	c.mu.Unlock()
	if n.index != 0 || n.dead {
		return nil
	}
	if err := c.establish(&n); err != nil {
		return unavailable("the network %s cannot be used: %v", l.Name, err)
	}
	c.mu.Lock()
	l.bridge, l.index, l.mtu = n.bridge, n.index, n.mtu
	c.mu.Unlock()
	return nil
}

// check reads a request, without looking at the networks that there are.
func (c *Controller) check(q network.CreateRequest) (Config, error) {
	conf := Config{ID: newID(), Name: q.Name, Driver: q.Driver, Created: time.Now().UTC(), Labels: q.Labels, Options: map[string]string{},
		IPv4: true, Internal: q.Internal, Attachable: q.Attachable, IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}}}
	switch {
	case q.Name == "" || strings.TrimSpace(q.Name) != q.Name || strings.ContainsAny(q.Name, "/\\\x00\n"):
		return conf, invalid("invalid name: %q: a network's name has letters, digits and - _ . and no slashes or spaces around it", q.Name)
	case q.Name == network.NetworkDefault:
		return conf, forbidden("network name %q is reserved and cannot be created", q.Name)
	case isPredefined(q.Name):
		return conf, forbidden("operation is not permitted on predefined %s network", q.Name)
	case q.Scope == "swarm" || q.Driver == "overlay" || q.Ingress:
		return conf, forbidden("this node is not a swarm manager: networks over several machines (driver overlay, scope swarm, ingress) are not part of hezi")
	case q.ConfigOnly || q.ConfigFrom != nil:
		return conf, notThere("--config-only and --config-from are for swarms, which are not part of hezi: give the options to network create itself")
	}
	if conf.Driver == "" {
		conf.Driver = driverBridge
	}
	switch conf.Driver {
	case driverBridge, driverMacvlan, driverIpvlan:
	case driverHost, driverNull:
		return conf, forbidden("only one instance of %q network is allowed", conf.Driver)
	default:
		return conf, notFound(`could not resolve driver "%s": there are bridge, macvlan and ipvlan; plugins are not part of hezi`, conf.Driver)
	}
	if conf.Labels == nil {
		conf.Labels = map[string]string{}
	}
	maps.Copy(conf.Options, c.o.DefaultOptions[conf.Driver])
	maps.Copy(conf.Options, q.Options)
	if err := conf.families(q); err != nil {
		return conf, err
	}
	if a := q.IPAM; a != nil {
		if a.Driver != "" && a.Driver != "default" {
			if a.Driver == "null" {
				return conf, notThere("the IPAM driver null is for overlay networks: leave --ipam-driver out")
			}
			return conf, notFound(`could not resolve IPAM driver "%s": there is "default" alone; plugins are not part of hezi`, a.Driver)
		}
		conf.IPAM.Options = a.Options
		for _, i := range a.Config {
			if i.Subnet.Addr().Is6() && !conf.IPv6 || i.Subnet.Addr().Is4() && !conf.IPv4 {
				continue // as Docker has it
			}
			conf.IPAM.Config = append(conf.IPAM.Config, i)
		}
	}
	return conf, ipam.Check(conf.IPAM.Config, conf.Driver == driverBridge)
}

// families reads which of IPv4 and IPv6 the network has.
func (conf *Config) families(q network.CreateRequest) error {
	for _, f := range []struct {
		asked  *bool
		option string
		to     *bool
	}{{q.EnableIPv4, options.EnableIPv4, &conf.IPv4}, {q.EnableIPv6, options.EnableIPv6, &conf.IPv6}} {
		if f.asked != nil {
			*f.to = *f.asked
			delete(conf.Options, f.option)
		} else if v, ok, err := options.Bool(conf.Options, f.option); err != nil {
			return err
		} else if ok {
			*f.to = v
		}
	}
	if !conf.IPv4 && !conf.IPv6 {
		return invalid("IPv4 or IPv6 must be enabled")
	}
	return nil
}

// free looks whether name, bridge and parent are still to be had.
func (c *Controller) free(conf Config) error {
	o, err := options.ParseBridge(conf.Options)
	if conf.Driver != driverBridge {
		o, err = options.Bridge{}, nil
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lans {
		if l.Name == conf.Name {
			return conflict("network with name %s already exists", conf.Name)
		}
		if o.Name != "" && l.bridge == o.Name {
			return conflict("conflicts with network %s (%s): the bridge %s is its own: choose another %s", l.ID, l.Name, o.Name, options.BridgeName)
		}
		if parent := conf.Options["parent"]; parent != "" && l.v.Parent == parent && l.Driver != conf.Driver {
			return conflict("network %s is already using parent interface %s: a device has macvlans or ipvlans, not both", l.Name, parent)
		}
	}
	return nil
}

// choose fills in subnets and gateways.
func (c *Controller) choose(conf *Config) error {
	busy, err := c.busy()
	if err != nil {
		return err
	}
	var list []network.IPAMConfig
	has := map[bool]bool{}
	for _, i := range conf.IPAM.Config {
		if i.Subnet.IsValid() {
			has[i.Subnet.Addr().Is6()] = true
			list = append(list, i)
		}
	}
	for _, v6 := range []bool{false, true} {
		if v6 && !conf.IPv6 || !v6 && !conf.IPv4 || has[v6] {
			continue
		}
		pools := c.o.Pools
		if v6 && !slices.ContainsFunc(pools, func(p ipam.Pool) bool { return p.Base.Addr().Is6() }) {
			pools = []ipam.Pool{c.st.local6()}
		}
		s, err := ipam.Subnet(pools, v6, busy, netip.Prefix{})
		if err != nil {
			return err
		}
		list = append(list, network.IPAMConfig{Subnet: s})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range list {
		i := &list[n]
		if err := c.overlapLocked(conf, i.Subnet); err != nil {
			return err
		}
		if !i.Gateway.IsValid() && (conf.Driver != driverIpvlan || !strings.HasPrefix(conf.Options["ipvlan_mode"], "l3")) && !(conf.Internal && conf.Driver != driverBridge) {
			i.Gateway = ipam.Gateway(*i)
		}
		if err := ipam.Distinct(*i); err != nil {
			return err
		}
	}
	conf.IPAM.Config = list
	return nil
}

// overlapLocked refuses a subnet that another network has a part of. Networks on a
// device of the host may share one with the host's own.
func (c *Controller) overlapLocked(conf *Config, s netip.Prefix) error {
	for _, l := range c.lans {
		for _, o := range l.subnets() {
			if o.Overlaps(s) {
				return forbidden("invalid pool request: Pool overlaps with other one on this address space: %s overlaps %s of the network %s: choose another --subnet", s, o, l.Name)
			}
		}
	}
	return nil
}

// Remove removes a network. Errors: NotFound, PermissionDenied for one of ours or
// one that containers are in.
func (c *Controller) Remove(_ context.Context, ref string) error {
	c.making.Lock()
	defer c.making.Unlock()
	c.mu.Lock()
	l, err := c.resolveLocked(ref)
	if err == nil && ref == "" {
		err = notFound("network %s not found", ref)
	}
	if err == nil {
		err = c.closeLocked(l)
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	idle := l.drainLocked()
	c.mu.Unlock()
	for _, s := range idle {
		logFailure("remove a network namespace", c.discard(s))
	}
	return c.demolish(l)
}

// closeLocked has nobody join the network any more.
func (c *Controller) closeLocked(l *lan) error {
	if isPredefined(l.Name) {
		return forbidden("%s is a pre-defined network and cannot be removed", l.Name)
	}
	if len(l.links) > 0 {
		var in []string
		for id := range l.links {
			in = append(in, fmt.Sprintf("name:%q id:%q", calledLocked(&c.registry, id), endpointID(id, l.ID)[:12]))
		}
		slices.Sort(in)
		return forbidden("error while removing network: network %s has active endpoints (%s): stop these containers, or take them out with network disconnect", l.Name, strings.Join(in, ", "))
	}
	l.dead = true
	return nil
}

// demolish removes what a closed network has.
func (c *Controller) demolish(l *lan) error {
	revive := func(err error) error {
		c.mu.Lock()
		l.dead = false
		c.mu.Unlock()
		return err
	}
	// Who is killed in between leaves a network that is there, not a device that nobody
	// knows.
	if err := c.lower(l); err != nil {
		logFailure("remove a network's device", err)
	}
	if c.table != nil && l.bridged() {
		logFailure("take a network out of nft", c.table.RemoveNetwork(l.bridge))
		logFailure("forget what a network dropped", nft.ForgetDropped(c.table, l.bridge))
	}
	err := os.Remove(c.file(l.ID))
	if err == nil || os.IsNotExist(err) {
		err = syncFolder(folder(c.o.DataRoot))
	}
	if err != nil {
		return revive(fmt.Errorf("remove the network %s: %w", l.Name, errors.Join(err, c.establish(l))))
	}
	c.mu.Lock()
	delete(c.lans, l.ID)
	c.mu.Unlock()
	c.announce(events.ActionDestroy, l, "")
	return nil
}

// Prune removes the networks that users made, no container has, also none that is
// stopped, and the filters label, label! and until pass. A dry run only tells what
// would go. Error: InvalidArgument for a filter.
func (c *Controller) Prune(ctx context.Context, o disk.PruneOptions) (network.PruneReport, error) {
	report := network.PruneReport{NetworksDeleted: []string{}}
	if err := filters.Check(o.Filters, "label", "label!", "until"); err != nil {
		return report, err
	}
	until, err := untilOf(o.Filters["until"])
	if err != nil {
		return report, err
	}
	list, err := c.List(ctx, nil)
	if err != nil {
		return report, err
	}
	for _, n := range list {
		if isPredefined(n.Name) || len(n.Containers) > 0 || !filters.Match(n, false, o.Filters) || !until.IsZero() && n.Created.After(until) || c.asked(n.ID, o.Without) {
			continue
		}
		if !o.DryRun {
			err = c.Remove(ctx, n.ID)
		}
		switch {
		case err == nil:
			report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
		case errdefs.IsPermissionDenied(err), errdefs.IsNotFound(err): // somebody joined it, or removed it
		default:
			return report, err
		}
		if ctx.Err() != nil {
			return report, nil
		}
	}
	if !o.DryRun {
		c.announcePrune()
	}
	return report, nil
}

// asked says whether a container wants the network at its next start.
func (c *Controller) asked(id string, without map[string]bool) bool {
	if c.o.InUse == nil {
		return false
	}
	return slices.ContainsFunc(c.o.InUse(id), func(container string) bool { return !without[container] })
}

func untilOf(values map[string]bool) (t time.Time, err error) {
	for v := range values {
		t, err = disk.Moment(v, time.Now())
	}
	return t, err
}

func (c *Controller) announcePrune() {
	if c.o.Publish != nil {
		c.o.Publish(events.Message{Type: events.NetworkEventType, Action: events.ActionPrune, Scope: "local",
			Actor: events.Actor{Attributes: map[string]string{"reclaimed": "0"}}})
	}
}
