package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"hezi/internal/network/netns"
	"hezi/internal/network/nft"
	"hezi/internal/network/ports"
)

// Options configure a Controller.
type Options struct {
	// Identity tells engines on one machine apart; "" is for the default roots,
	// which get the plain names hezi0 and hezi.
	Identity           string
	DataRoot, ExecRoot string
	BIP                netip.Prefix // the bridge's address and subnet; zero: chosen once
	FixedCIDR          netip.Prefix // containers get addresses of this range; zero: of the subnet
	MTU                int          // bytes; 0: the default route's
	DefaultBind        netip.Addr   // where ports are published without an address; zero: 0.0.0.0
	IPForward          bool         // switch the kernel's forwarding on
	IPMasq             bool         // masquerade what leaves the bridge
	IPTables           bool         // keep the nft table; without it no port is published
	UserlandProxy      bool         // accepted; the kernel does all of it
	Pool               int          // slots kept ready; 0: 4, negative: none
	// Publish gets the events of the networks; may be nil.
	Publish func(events.Message)
}

// Controller is the network room. Its methods are safe for concurrent use.
type Controller struct {
	o      Options
	st     state
	bridge string // its name
	index  int    // its interface index
	short  string // four letters of the identity
	table  *nft.Table
	ports  *ports.Table

	stop   chan struct{}
	kick   chan struct{} // to the worker that releases
	refill chan struct{} // to the one that fills the pool
	wg     sync.WaitGroup
	watch  *nft.Watch

	mu        sync.Mutex
	closed    bool
	used      map[netip.Addr]bool // every address that is not free
	last      netip.Addr
	pool      []*slot
	members   map[string]*member // by container id
	joining   map[string]bool
	releasing map[*member]bool
	dying     map[netip.Addr]bool
	fresh     []nft.Forward   // published; flows of before are still to be forgotten
	unclaimed map[string]bool // handles of a former engine, by path
}

// slot is a namespace; address is zero for one with loopback alone.
type slot struct {
	path    string
	address netip.Addr
	mac     net.HardwareAddr
}

// member is a container's place.
type member struct {
	req      EndpointRequest
	slot     *slot
	holds    []*ports.Hold
	forwards []nft.Forward
	box      *Sandbox
	adopted  bool          // it ran while the engine was away
	done     chan struct{} // closed when ports and handle are given back
}

// New opens the networks: it finds or makes the bridge and the nft table.
func New(o Options) (*Controller, error) {
	if o.MTU == 0 {
		o.MTU = netns.DefaultMTU()
	}
	if o.Pool == 0 {
		o.Pool = 4
	}
	c := &Controller{o: o, bridge: "hezi0", ports: ports.New(), stop: make(chan struct{}),
		kick: make(chan struct{}, 1), refill: make(chan struct{}, 1),
		used: map[netip.Addr]bool{}, members: map[string]*member{}, joining: map[string]bool{},
		releasing: map[*member]bool{}, dying: map[netip.Addr]bool{}, unclaimed: map[string]bool{}}
	name := "hezi"
	if o.Identity != "" {
		sum := sha256.Sum256([]byte(o.Identity))
		c.short = hex.EncodeToString(sum[:])[:4]
		c.bridge, name = "hezi-"+hex.EncodeToString(sum[:])[:8], "hezi-"+o.Identity
	}
	if err := os.MkdirAll(c.handles(), 0o711); err != nil {
		return nil, fmt.Errorf("make the folder of the network namespaces: %w", err)
	}
	if err := c.openBridge(); err != nil {
		return nil, err
	}
	if o.IPForward {
		if err := forward(); err != nil {
			return nil, err
		}
	}
	if err := c.find(); err != nil {
		return nil, err
	}
	if o.IPTables {
		var err error
		cfg := nft.Config{Table: name, Bridge: c.bridge, Subnet: c.st.Subnet, Masquerade: o.IPMasq}
		if c.table, err = nft.Open(cfg); err != nil {
			return nil, err
		}
		// After the rules that keep 127/8 from the bridge.
		if err := netns.Sysctl("net/ipv4/conf/"+c.bridge+"/route_localnet", "1"); err != nil {
			return nil, err
		}
		if c.watch, err = c.table.Watch(); err != nil {
			return nil, err
		}
	}
	for _, w := range c.Warnings() {
		slog.Warn(w)
	}
	c.wg.Add(2)
	go c.release()
	go c.fill()
	wake(c.refill)
	return c, nil
}

func (c *Controller) handles() string { return filepath.Join(c.o.ExecRoot, "netns") }

func (c *Controller) openBridge() error {
	unlock, err := lockSubnets()
	if err != nil {
		return err
	}
	defer unlock()
	if c.st, err = loadState(c.o, c.bridge); err != nil {
		return err
	}
	if f := c.o.FixedCIDR; f.IsValid() && (!c.st.Subnet.Contains(f.Addr()) || f.Bits() < c.st.Subnet.Bits()) {
		return fmt.Errorf("fixed-cidr %s is not in the bridge's subnet %s", f, c.st.Subnet)
	}
	c.index, err = netns.Bridge(c.bridge, netip.PrefixFrom(c.st.Gateway, c.st.Subnet.Bits()), hardware(c.st.Gateway), c.o.MTU)
	return err
}

// find marks the addresses that a former engine gave as used.
func (c *Controller) find() error {
	entries, err := os.ReadDir(c.handles())
	if err != nil {
		return fmt.Errorf("list the network namespaces: %w", err)
	}
	for _, e := range entries {
		c.unclaimed[filepath.Join(c.handles(), e.Name())] = true
		if a, ok := addressOf(e.Name()); ok {
			c.used[a] = true
		}
	}
	on, err := netns.Ports(c.index)
	if err != nil {
		return err
	}
	for name := range on {
		if hexa, ok := strings.CutPrefix(name, c.outside("")); ok {
			if a, ok := addressOf(hexa); ok && !c.used[a] {
				c.used[a], c.dying[a] = true, true
			}
		}
	}
	return nil
}

// Gateway is the bridge's address: what host-gateway means in a container.
func (c *Controller) Gateway() netip.Addr { return c.st.Gateway }

// Subnet is the bridge's.
func (c *Controller) Subnet() netip.Prefix { return c.st.Subnet }

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
	c.wg.Wait()
	c.mu.Lock()
	pool, left := c.pool, c.members
	c.pool, c.members = nil, map[string]*member{}
	c.mu.Unlock()
	for _, s := range pool {
		errs = append(errs, netns.Remove(s.path))
	}
	for _, m := range left {
		for _, h := range m.holds {
			errs = append(errs, h.Close())
		}
	}
	return errors.Join(errs...)
}

// Dismantle takes the bridge and the firewall table away when no container is
// in the network; the next New makes them again, with the same subnet. It
// follows Close.
func (c *Controller) Dismantle() error {
	entries, err := os.ReadDir(c.handles())
	if err != nil || len(entries) > 0 {
		return err
	}
	if c.table != nil {
		err = c.table.Destroy()
	}
	return errors.Join(err, netns.RemoveBridge(c.bridge))
}

// outside is the name of the host's end of a slot, at most 15 letters.
func (c *Controller) outside(hexa string) string { return "hz" + c.short + "-" + hexa }

func hexOf(a netip.Addr) string {
	b := a.As4()
	return hex.EncodeToString(b[:])
}

func addressOf(name string) (netip.Addr, bool) {
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != 4 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(b)), true
}

// hardware makes a MAC from an address: the same address has the same MAC, so
// that neighbours' caches never go stale.
func hardware(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// forward switches the kernel's forwarding on, and says so.
func forward() error {
	const key = "net/ipv4/ip_forward"
	if have, err := os.ReadFile("/proc/sys/" + key); err == nil && strings.TrimSpace(string(have)) == "1" {
		return nil
	}
	if err := netns.Sysctl(key, "1"); err != nil {
		return err
	}
	slog.Warn("net.ipv4.ip_forward was off and is now on, as containers need it: if this machine must not forward between its own networks, say so in its firewall")
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
