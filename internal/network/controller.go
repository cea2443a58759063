package network

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/around"
	"hezi/internal/network/dns"
	"hezi/internal/network/dns/names"
	"hezi/internal/network/dns/sockets"
	"hezi/internal/network/egress"
	"hezi/internal/network/ipam"
	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
	"hezi/internal/network/ports"
	"hezi/internal/network/taken"
)

// Options configure a Controller.
type Options struct {
	// Identity tells engines on one machine apart; "" is for the default roots,
	// which get the plain names hezi0 and hezi.
	Identity           string
	DataRoot, ExecRoot string
	Bridge             string       // a bridge of the host's to use as the network bridge; "": one of ours
	NoBridge           bool         // there is no network bridge; what is in one of before stays
	BIP                netip.Prefix // the bridge's address and subnet; zero: chosen once
	BIP6               netip.Prefix // the same of IPv6
	FixedCIDR          netip.Prefix // containers get addresses of this range; zero: of the subnet
	FixedCIDR6         netip.Prefix
	Way, Way6          netip.Addr // default route of the network bridge's containers; zero: the bridge
	IPv6               bool       // the network bridge has IPv6
	ICC                bool       // containers of the network bridge reach each other
	MTU                int        // bytes; 0: the default route's
	DefaultBind        netip.Addr // where ports are published without an address; zero: all
	IPForward          bool       // switch the kernel's forwarding on
	IPMasq             bool       // masquerade what leaves a network
	IPTables           bool       // keep rules of IPv4; without these no port is published over it
	IP6Tables          bool       // the same of IPv6
	DirectRouting      bool       // published ports are reached at containers' own addresses too
	BridgesOnly        bool       // what stays within a bridge passes no IP firewall, on the whole host
	Judged             bool       // published ports are reached as the host's own input rules have it
	Pool               int        // slots kept ready for the network bridge; 0: 4, negative: none
	// Pools are what networks get subnets of; nil: ipam.DefaultPools.
	Pools []ipam.Pool
	// DefaultOptions of networks, by driver.
	DefaultOptions map[string]map[string]string
	// Publish gets the events of the networks; may be nil.
	Publish    func(events.Message)
	ResolvConf string // the host's; "": /etc/resolv.conf
	// Admit is told of the addresses of names before the containers that ask hear them;
	// may be nil.
	Admit dns.Admit
	// Denied is told what a container was denied by a policy of egress; may be nil.
	Denied func(containerID string, d Denied)
	// Relay has published ports answer at ::1; nil: they do not.
	Relay Relay
	// InUse names containers that have a network without running; may be nil.
	InUse func(networkID string) []string
}

// Controller is the network room. Its methods are safe for concurrent use.
type Controller struct{ publisher }

// publisher holds the containers' ports, and gives back what they had.
type publisher struct{ pools }

// pools keep namespaces ready.
type pools struct{ registry }

// registry are the networks and who is in them.
type registry struct {
	o     Options
	st    state
	short string // four letters of the identity
	table *nft.Table
	ports *ports.Table

	stop   chan struct{}
	kick   chan struct{} // to the worker that releases
	refill chan struct{} // to the one that fills the pools
	wg     sync.WaitGroup
	watch  *nft.Watch
	around around.Follower
	names  *names.Table
	dns    *dns.Server

	denials denials

	making  sync.Mutex // held while networks are made and removed
	filling sync.Mutex // held while a slot is made that is to wait

	mu        sync.Mutex // guards all below
	closed    bool
	lans      map[string]*lan    // by id
	members   map[string]*member // by container id
	joining   map[string]bool
	releasing map[*member]bool
	dying     map[string]dead   // by the host's end
	fresh     []nft.Forward     // published; flows of before are still to be forgotten
	unclaimed map[string]bool   // handles of a former engine, by path
	strays    map[string]string // host's ends of a former engine, with their aliases
}

// slot is a namespace that waits; its link is nil for one with loopback alone.
type slot struct {
	path string
	link *link
	pair *sockets.Pair // by which a container asks for names
}

// dead is an interface whose namespace the kernel takes down.
type dead struct {
	lan *lan
	v4  netip.Prefix
	v6  netip.Prefix
}

// member is a container's namespace.
type member struct {
	id, name  string
	path      string
	links     []*link // in the order of the interfaces
	ports     network.PortMap
	kept      map[ports.Place]int // sockets that Adopt was given
	asked     network.PortMap     // for Adopt: without the ports that were chosen
	holds     []*held
	beside    []*held         // at ::1, for holds of 0.0.0.0
	spare     []*held         // given up by Republish, for whatever asks for the same
	reused    []*ports.Hold   // of spare
	lost      network.PortMap // for Sandbox.Unpublished
	forwards  []nft.Forward
	direct    []nft.Direct
	box       *Sandbox
	pair      *sockets.Pair // nil: it asks for no names
	served    bool          // they are the name service's
	resolving Resolving
	egress    *egress.Policy // its own; nil: none
	adopted   bool           // it ran while the engine was away
	done      chan struct{}  // closed when ports and handle are given back
	work      sync.Mutex     // held while networks are connected and disconnected
}

// New opens the networks: it finds or makes the bridges and the nft table.
func New(o Options) (*Controller, error) {
	if o.MTU == 0 {
		o.MTU = netns.DefaultMTU()
	}
	if o.Pool == 0 {
		o.Pool = 4
	}
	if o.Pools == nil {
		o.Pools = ipam.DefaultPools()
	}
	c := &Controller{}
	c.registry = registry{o: o, ports: ports.New(), stop: make(chan struct{}),
		kick: make(chan struct{}, 1), refill: make(chan struct{}, 1),
		lans: map[string]*lan{}, members: map[string]*member{}, joining: map[string]bool{},
		releasing: map[*member]bool{}, dying: map[string]dead{}, unclaimed: map[string]bool{}, strays: map[string]string{}}
	bridge, name := "hezi0", "hezi"
	if o.Identity != "" {
		sum := sha256.Sum256([]byte(o.Identity))
		c.short = hex.EncodeToString(sum[:])[:4]
		bridge, name = "hezi-"+hex.EncodeToString(sum[:])[:8], "hezi-"+o.Identity
	}
	own := bridge
	if o.Bridge != "" {
		bridge = o.Bridge
	}
	if err := os.MkdirAll(c.handles(), 0o711); err != nil {
		return nil, fmt.Errorf("make the folder of the network namespaces: %w", err)
	}
	if o.BridgesOnly {
		if err := netns.BridgesOnly(); err != nil {
			return nil, err
		}
	}
	if err := c.openNetworks(bridge); err != nil {
		return nil, err
	}
	if o.IPForward {
		if err := c.forward(); err != nil {
			return nil, err
		}
	}
	if err := c.find(); err != nil {
		return nil, err
	}
	if !o.IPTables { // before the rules go
		if err := shutLocalnets(c.lans, own); err != nil {
			return nil, err
		}
	}
	if o.IPTables || o.IP6Tables {
		if err := c.openTable(name); err != nil {
			return nil, err
		}
	} else if err := nft.Remove(name); err != nil {
		slog.Warn("the nft table of an engine with firewall rules is left over: what it published goes on to go to containers", "table", name, "error", err)
	}
	for _, w := range c.Warnings() {
		slog.Warn(w)
	}
	if err := (resolver{&c.registry}).open(); err != nil {
		return nil, err
	}
	c.wg.Add(2)
	go c.release()
	go c.fill()
	wake(c.refill)
	return c, nil
}

func (c *registry) openTable(name string) error {
	cfg := nft.Config{Table: name, Without4: !c.o.IPTables, Without6: !c.o.IP6Tables}
	for _, l := range c.lans {
		if l.bridged() && l.index != 0 {
			cfg.Networks = append(cfg.Networks, l.rules(c.o.IPMasq))
		}
	}
	var err error
	if cfg.Judge, err = judge(c.o, c.short); err != nil {
		return err
	}
	if c.table, err = nft.Open(cfg); err != nil {
		if cfg.Judge != nil {
			err = fmt.Errorf("publish-policy firewall, for which the kernel needs CONFIG_NFT_DUP_IPV4 and CONFIG_NFT_DUP_IPV6: %w", err)
		}
		return err
	}
	if cfg.Judge == nil {
		logFailure("remove a pair of devices", netns.RemoveLink(judgeDevice(c.short)))
	}
	for _, l := range c.lans {
		if err := c.routeLocalnet(l); err != nil {
			return err
		}
	}
	if c.watch, err = c.table.Watch(); err == nil && cfg.Judge != nil {
		j := *cfg.Judge
		err = netns.KeepLoop(j.In, j.Out, j.Index, c.stop, c.wg.Go, func(index int) error {
			j.Index = index
			return nft.SetJudge(c.table, j)
		})
	}
	return err
}

// judgeDevice is where what the host's input rules have let through comes in again. Its
// name begins as the bridges' do: one rule of others is enough for all.
func judgeDevice(short string) string { return "hezi-fw" + short }

// judge makes what nft needs to ask the host's input rules.
func judge(o Options, short string) (*nft.Judge, error) {
	if !o.Judged {
		return nil, nil
	}
	j := &nft.Judge{In: judgeDevice(short), Out: judgeDevice(short) + "-in"}
	_, err := os.Stat("/proc/sys/net/ipv6")
	j.V6 = err == nil && o.IP6Tables
	j.Index, err = netns.Loop(j.In, j.Out)
	return j, err
}

// routeLocalnet lets the host's own loopback reach published ports. It follows the
// rules that keep 127/8 from the bridges, and is not without them.
func (c *registry) routeLocalnet(l *lan) error {
	switch {
	case !l.bridged():
		return nil
	case !c.o.IPTables:
		return netns.Localnet(l.bridge, false)
	case l.index == 0:
		return nil
	}
	return netns.Localnet(l.bridge, true)
}

// shutLocalnets takes back what routeLocalnet did, also that of an engine before this one.
func shutLocalnets(lans map[string]*lan, further ...string) error {
	names := map[string]bool{}
	for _, l := range lans {
		if l.bridged() {
			names[l.bridge] = true
		}
	}
	for _, name := range further {
		names[name] = true
	}
	var errs []error
	for name := range names {
		errs = append(errs, netns.Localnet(name, false))
	}
	return errors.Join(errs...)
}

func (c *registry) handles() string { return filepath.Join(c.o.ExecRoot, "netns") }

// openNetworks reads the networks and finds or makes their devices. A network that
// cannot be made, of those that users made, is said and left out of nothing: it is
// listed, and made for whoever joins it (ready).
func (c *registry) openNetworks(bridge string) error {
	unlock, err := taken.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := loadConfigs(c.o.DataRoot)
	if err != nil {
		return err
	}
	if c.st, err = loadState(c.o, bridge, stored); err != nil {
		return err
	}
	if f := c.o.FixedCIDR; f.IsValid() && !c.o.NoBridge && (!c.st.Subnet.Contains(f.Addr()) || f.Bits() < c.st.Subnet.Bits()) {
		return fmt.Errorf("fixed-cidr %s is not in the bridge's subnet %s", f, c.st.Subnet)
	}
	for way, subnet := range map[netip.Addr]netip.Prefix{c.o.Way: c.st.Subnet, c.o.Way6: c.st.Subnet6} {
		if way.IsValid() && !c.o.NoBridge && subnet.IsValid() && !subnet.Contains(way) {
			return fmt.Errorf("the default gateway %s is not in the bridge's subnet %s", way, subnet)
		}
	}
	for _, conf := range append(c.predefined(bridge), stored...) {
		l, err := newLan(conf)
		if err != nil && !isPredefined(conf.Name) { // of a newer version, or by hand
			slog.Error("a network cannot be used", "network", conf.Name, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("the network %s: %w", conf.Name, err)
		}
		l.direct, l.shut = c.o.DirectRouting, c.o.NoBridge && conf.Name == network.NetworkBridge
		c.lans[l.ID] = l
		if err := c.raise(l); err != nil {
			if isPredefined(conf.Name) {
				return err
			}
			slog.Error("a network cannot be used", "network", conf.Name, "error", err)
		}
	}
	if b := c.bridge(); b != nil && !c.o.NoBridge {
		b.warm = max(c.o.Pool, 0)
	}
	return nil
}

// bridge is the predefined network of that name; nil if there is none.
func (c *registry) bridge() *lan { return c.lans[c.st.IDs[network.NetworkBridge]] }

// find marks the addresses that a former engine gave as used.
func (c *registry) find() error {
	entries, err := os.ReadDir(c.handles())
	if err != nil {
		return fmt.Errorf("list the network namespaces: %w", err)
	}
	for _, e := range entries {
		c.unclaimed[filepath.Join(c.handles(), e.Name())] = true
	}
	names, err := netns.Names()
	if err != nil {
		return err
	}
	for name, alias := range names {
		mark, ours := strings.CutPrefix(name, c.outside(""))
		if !ours || len(mark) != 8 {
			continue
		}
		if alias == "" { // of a version with one network
			if b, err := hex.DecodeString(mark); err == nil {
				alias = netip.AddrFrom4([4]byte(b)).String()
			}
		}
		c.strays[name] = alias
		for _, l := range c.lans {
			l.useLocked(addressesOf(alias)...)
		}
	}
	return nil
}

// Gateways are the network bridge's addresses: what host-gateway means in a container.
func (c *registry) Gateways() (list []netip.Addr) {
	for _, a := range []netip.Addr{c.st.Gateway, c.st.Gateway6} {
		if a.IsValid() && !c.o.NoBridge {
			list = append(list, a)
		}
	}
	return list
}

// Subnet is the network bridge's.
func (c *registry) Subnet() netip.Prefix { return c.st.Subnet }

// Close ends the controller's work. Containers keep their networks; the empty
// slots of the pool go.
func (c *Controller) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	close(c.stop)
	var errs []error
	if c.watch != nil {
		errs = append(errs, c.watch.Close())
	}
	errs = append(errs, c.around.Close(), c.dns.Close())
	c.wg.Wait()
	if c.o.Relay != nil {
		c.o.Relay.Close()
	}
	c.mu.Lock()
	var pool []*slot
	for _, l := range c.lans {
		pool, l.pool = append(pool, l.pool...), nil
	}
	left := c.members
	c.members = map[string]*member{}
	c.mu.Unlock()
	for _, s := range pool {
		s.deaf()
		errs = append(errs, netns.Remove(s.path))
	}
	for _, m := range left {
		for _, h := range slices.Concat(m.holds, m.beside) {
			errs = append(errs, h.hold.Close())
		}
	}
	return errors.Join(errs...)
}

// Dismantle takes the bridges and the firewall table away when no container is
// in a network; the next New makes them again, with the same subnets. It
// follows Close.
func (c *Controller) Dismantle() error {
	entries, err := os.ReadDir(c.handles())
	if err != nil || len(entries) > 0 {
		return err
	}
	if c.table != nil {
		if err := shutLocalnets(c.lans); err != nil { // bridges that were on the host stay
			return err
		}
		err = errors.Join(c.table.Destroy(), netns.RemoveLink(judgeDevice(c.short)))
	}
	// A device that two networks have goes with the last, which is the one that made it.
	all := slices.Collect(maps.Values(c.lans))
	slices.SortFunc(all, func(a, b *lan) int {
		return cmp.Or(-a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	for _, l := range all {
		c.mu.Lock()
		delete(c.lans, l.ID)
		c.mu.Unlock()
		err = errors.Join(err, c.lower(l))
	}
	return err
}

// outside is the name of the host's end of a slot, at most 15 letters.
func (c *registry) outside(hexa string) string { return "hz" + c.short + "-" + hexa }

// forward switches the kernel's forwarding on, and says so; that of IPv6 where a
// network has it, or one that is made.
func (c *registry) forward(made ...*lan) error {
	keys := []string{"net/ipv4/ip_forward"}
	for _, l := range append(slices.Collect(maps.Values(c.lans)), made...) {
		if l.IPv6 && l.bridged() {
			keys = append(keys, "net/ipv6/conf/all/forwarding")
			break
		}
	}
	for _, key := range keys {
		if have, err := os.ReadFile("/proc/sys/" + key); err == nil && strings.TrimSpace(string(have)) == "1" {
			continue
		}
		if strings.HasPrefix(key, "net/ipv6/") {
			if err := netns.KeepAdvertisements(); err != nil {
				return err
			}
		}
		if err := netns.Sysctl(key, "1"); err != nil {
			return err
		}
		slog.Warn(strings.ReplaceAll(key, "/", ".") + " was off and is now on, as containers need it: if this machine must not forward between its own networks, say so in its firewall")
	}
	return nil
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it is awake
	}
}

func logFailure(what string, err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) {
		slog.Warn(what, "error", err)
	}
}
