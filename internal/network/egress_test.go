package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hezi/internal/network/egress"
)

const worldV4, worldV6 = "198.51.100.2", "2001:db8:1::2"

// nameServer answers at 127.0.0.2 with the addresses of names, which are good for a second.
func nameServer(t *testing.T, o *Options, zone map[string][]string) {
	t.Helper()
	u, err := net.ListenPacket("udp4", "127.0.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	o.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(o.ResolvConf, []byte("nameserver 127.0.0.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			q := m.Questions[0]
			for _, text := range zone[strings.TrimSuffix(q.Name.String(), ".")] {
				h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
				if a := netip.MustParseAddr(text); a.Is4() && q.Type == dnsmessage.TypeA {
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
				} else if a.Is6() && q.Type == dnsmessage.TypeAAAA {
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
				}
			}
			if out, err := m.Pack(); err == nil {
				u.WriteTo(out, from)
			}
		}
	}()
}

// lookup asks a container's name service, and says with which code it answered.
func lookup(path, name string, typ dnsmessage.Type) (code dnsmessage.RCode, n int, err error) {
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: typ, Class: dnsmessage.ClassINET}}}
	out, err := q.Pack()
	if err != nil {
		return 0, 0, err
	}
	err = in(path, func() error {
		conn, err := net.Dial("udp", "127.0.0.11:53")
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(out); err != nil {
			return err
		}
		b := make([]byte, 4096)
		got, err := conn.Read(b)
		if err != nil {
			return err
		}
		var m dnsmessage.Message
		err = m.Unpack(b[:got])
		code, n = m.RCode, len(m.Answers)
		return err
	})
	return code, n, err
}

type told struct {
	mu   sync.Mutex
	list map[string][]Denied
}

func (w *told) tell(id string, d Denied) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.list == nil {
		w.list = map[string][]Denied{}
	}
	w.list[id] = append(w.list[id], d)
}

func (w *told) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%+v", w.list)
}

func (w *told) of(id, destination, protocol string) (n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.list[id] {
		if d.Destination == destination && d.Protocol == protocol {
			n += d.Count
		}
	}
	return n
}

// egressWorld is a world beyond the host that serves at port 80, by both families.
func egressWorld(t *testing.T) {
	t.Helper()
	world := outsideWorld(t)
	sh(t, `ip addr add 2001:db8:1::1/64 dev world nodad; nsenter --net=`+world+` sh -ec 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done; ip addr add 2001:db8:1::2/64 dev w0 nodad; ip -6 route add default via 2001:db8:1::1'`)
	serveBoth(t, world)
}

func (c *Controller) box(t *testing.T, id, policy string, ports network.PortMap, lans ...string) *Sandbox {
	t.Helper()
	q := SandboxRequest{ContainerID: id, ContainerName: "/" + id, Ports: ports, Egress: policy}
	for _, l := range lans {
		q.Endpoints = append(q.Endpoints, EndpointRequest{Network: l, Names: []string{id}})
	}
	s, err := c.Join(context.Background(), q)
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	serveBoth(t, s.Path)
	return s
}

func addressesIn(s *Sandbox, i int) (v4, v6 netip.Addr) {
	return s.Endpoints[i].Settings.IPAddress, s.Endpoints[i].Settings.GlobalIPv6Address
}

// reaches asks a few times, as the machine may be busy and a new port of a bridge takes a
// moment to work. Where the address must not be reached, that has to be said and not
// waited for.
func reaches(t *testing.T, from *Sandbox, to netip.Addr, port uint16, want bool, what string) {
	t.Helper()
	path := ""
	if from != nil {
		path = from.Path
	}
	where := netip.AddrPortFrom(to, port).String()
	_, err := ask(path, "tcp", where)
	for range 4 {
		if err != nil && (want || !errors.Is(err, unix.ECONNREFUSED)) {
			_, err = ask(path, "tcp", where)
		}
	}
	switch {
	case want && err != nil:
		t.Errorf("%s: %s: %v", what, where, err)
	case !want && err == nil:
		t.Errorf("%s: %s is reached", what, where)
	case !want && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EACCES):
		t.Errorf("%s: %s: not refused at once: %v", what, where, err)
	}
}

// TestEgress: who reaches whom under which policy, by both families.
func TestEgress(t *testing.T) {
	var told told
	o := testOptions(t, "egress")
	o.IPv6, o.Denied = true, told.tell
	c := open(t, o)
	egressWorld(t)
	lanOf(t, c, "red", network.CreateRequest{})
	lanOf(t, c, "blue", network.CreateRequest{})
	lanOf(t, c, "inside", network.CreateRequest{Internal: true})
	lanOf(t, c, "apart", network.CreateRequest{Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"}})
	lanOf(t, c, "held", network.CreateRequest{Labels: map[string]string{egress.Label: "allow=198.51.100.0/24,2001:db8:1::/64"}})
	free := c.box(t, "free", "", bind("80/tcp", "", "9100"), "red")
	none := c.box(t, "none", "none", bind("80/tcp", "", "9101"), "red")
	none2 := c.box(t, "none2", "none", nil, "bridge")
	some := c.box(t, "some", "allow=198.51.100.2:80/tcp,[2001:db8:1::2]:80/tcp", nil, "red")
	wrong := c.box(t, "wrong", "allow=198.51.100.2:81,[2001:db8:1::2]:80/udp,10.0.0.0/8", nil, "red")
	all := c.box(t, "all", "allow=0.0.0.0/0,::/0", nil, "red")
	inside1, inside2 := c.box(t, "inside1", "none", nil, "inside"), c.box(t, "inside2", "", nil, "inside")
	apart1, apart2 := c.box(t, "apart1", "allow=0.0.0.0/0,::/0", nil, "apart"), c.box(t, "apart2", "", nil, "apart")
	held := c.box(t, "held1", "", nil, "held")
	both := c.box(t, "held2", "allow=198.51.100.2:81,[2001:db8:1::2]:81", nil, "held")
	two := c.box(t, "two", "allow=198.51.100.2:80,[2001:db8:1::2]:80", nil, "red", "blue")
	blue := c.box(t, "blue1", "", nil, "blue")

	world4, world6 := netip.MustParseAddr(worldV4), netip.MustParseAddr(worldV6)
	host := map[bool]netip.Addr{false: netip.MustParseAddr("198.51.100.1"), true: netip.MustParseAddr("2001:db8:1::1")}
	for _, x := range []struct {
		from, to *Sandbox // nil: the world
		want     bool
		what     string
	}{
		{free, nil, true, "free to the world"}, {free, some, true, "free to some"}, {free, none, true, "free to none"},
		{none, nil, false, "none to the world"}, {none, free, false, "none to free"}, {none, some, false, "none to some"},
		{none2, nil, false, "none to the world from the default bridge"},
		{some, nil, true, "some to the world"}, {some, free, false, "some to free"}, {some, none, false, "some to none"},
		{wrong, nil, false, "wrong to the world"}, {wrong, free, false, "wrong to free"},
		{all, nil, true, "all to the world"}, {all, free, true, "all to free"}, {all, none, true, "all to none"},
		{inside1, inside2, false, "none to another inside"}, {inside2, inside1, true, "another to none inside"},
		{apart2, apart1, false, "apart"},
		{held, nil, true, "held to the world"}, {held, both, false, "held to its neighbour"},
		{both, nil, false, "held by both to the world"},
		{two, nil, true, "two to the world"}, {two, free, false, "two to red"}, {two, blue, false, "two to blue"}, {blue, two, true, "blue to two"},
	} {
		for _, v6 := range []bool{false, true} {
			to := map[bool]netip.Addr{false: world4, true: world6}[v6]
			if x.to != nil {
				v4, a6 := addressesIn(x.to, 0)
				if x.to == two {
					v4, a6 = addressesIn(x.to, 1)
				}
				to = map[bool]netip.Addr{false: v4, true: a6}[v6]
			}
			if x.what == "apart" { // dropped by the network's rules, as without a policy
				if _, err := ask(x.from.Path, "tcp", netip.AddrPortFrom(to, 80).String()); err == nil {
					t.Error("containers of a network without icc reach each other")
				}
				continue
			}
			reaches(t, x.from, to, 80, x.want, x.what)
		}
	}
	if a, _ := addressesIn(apart2, 0); true {
		if _, err := ask(apart1.Path, "tcp", netip.AddrPortFrom(a, 80).String()); err == nil {
			t.Error("a policy opens a network without icc")
		}
	}
	for _, v6 := range []bool{false, true} { // published ports: from outside, and asked by containers
		reaches(t, nil, host[v6], 9101, true, "the host to what none publishes")
		reaches(t, none, host[v6], 9100, false, "none to what free publishes")
		reaches(t, all, host[v6], 9100, true, "all to what free publishes")
		reaches(t, none, host[v6], 22, false, "none to the host")
	}
	if _, err := ask(none.Path, "udp", worldV4+":80"); err == nil {
		t.Error("none reaches the world by UDP")
	}
	e := c.Egress("none")
	if e == nil || e.Policy != "none" || e.DeniedPackets == 0 || e.DeniedBytes == 0 {
		t.Errorf("what is said of none: %+v", e)
	}
	if e := c.Egress("free"); e != nil {
		t.Errorf("what is said of free: %+v", e)
	}
	if e := c.Egress("held1"); e == nil || e.Policy != "" || e.Networks["held"] != "allow=198.51.100.0/24,2001:db8:1::/64" {
		t.Errorf("what is said of held1: %+v", e)
	}
	for _, a := range []string{worldV4, worldV6} {
		eventually(t, "an event of "+a, func() error {
			if told.of("none", a, "tcp") == 0 {
				return errors.New(told.all())
			}
			return nil
		})
	}
}

// TestEgressFrames: raw frames of a container reach no neighbour: under another's address,
// of the link, or of another kind.
func TestEgressFrames(t *testing.T) {
	o := testOptions(t, "frames")
	o.IPv6 = true
	c := open(t, o)
	lanOf(t, c, "red", network.CreateRequest{})
	free, none, other := c.box(t, "free", "", nil, "red"), c.box(t, "none", "none", nil, "red"), c.box(t, "other", "", nil, "red")
	v4, _ := addressesIn(free, 0)
	mine, _ := addressesIn(other, 0)
	listen := func(path string, f func(fd int)) {
		t.Helper()
		err := in(path, func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300) // ETH_P_ALL
			if err == nil {
				err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300000})
				f(fd)
				unix.Close(fd)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	source := net.HardwareAddr{}
	frame := func(ether uint16, payload []byte) []byte {
		to := free.Endpoints[0].Settings.MacAddress
		return slices.Concat([]byte(to), source, []byte{byte(ether >> 8), byte(ether)}, payload)
	}
	ip4 := func(from, to netip.Addr) []byte {
		h := []byte{0x45, 0, 0, 48, 0, 0, 0, 0, 64, 17, 0, 0}
		h = append(append(append(h, from.AsSlice()...), to.AsSlice()...), 0, 1, 0, 1, 0, 28, 0, 0)
		sum := uint32(0)
		for i := 0; i < 20; i += 2 {
			sum += uint32(h[i])<<8 | uint32(h[i+1])
		}
		sum = ^(sum&0xffff + sum>>16)
		h[10], h[11] = byte(sum>>8), byte(sum)
		return append(h, []byte("smuggled-by-egress!!")...)
	}
	arp := append([]byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 66, 9, 9, 9, 9}, make([]byte, 14)...)
	ll := append([]byte{0x60, 0, 0, 0, 0, 28, 17, 64}, append(append(netip.MustParseAddr("fe80::9").AsSlice(), netip.MustParseAddr("fe80::8").AsSlice()...), 0, 1, 0, 1, 0, 28, 0, 0)...)
	send := func(from *Sandbox) (got int) {
		var frames [][]byte
		source = net.HardwareAddr(from.Endpoints[0].Settings.MacAddress)
		for _, a := range []string{mine.String(), "203.0.113.9", "0.0.0.0"} {
			frames = append(frames, frame(unix.ETH_P_IP, ip4(netip.MustParseAddr(a), v4)))
		}
		source = net.HardwareAddr{2, 66, 9, 9, 9, 9} // and the right address of IP
		own, _ := addressesIn(from, 0)
		frames = append(frames, frame(unix.ETH_P_ARP, append(slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 66, 9, 9, 9, 9}, own.AsSlice()), []byte("smuggled-by-egress")...)))
		source = net.HardwareAddr(from.Endpoints[0].Settings.MacAddress)
		frames = append(frames, frame(0x88b5, []byte("smuggled-by-egress!!")), frame(unix.ETH_P_IPV6, append(ll, []byte("smuggled-by-egress!!")...)),
			frame(unix.ETH_P_ARP, append(slices.Clone(arp), []byte("smuggled-by-egress!!")...)))
		done := make(chan int)
		ready := make(chan bool)
		go func() {
			n := 0
			listen(free.Path, func(fd int) {
				close(ready)
				b := make([]byte, 2048)
				for {
					l, _, err := unix.Recvfrom(fd, b, 0)
					if err != nil {
						break
					}
					if strings.Contains(string(b[:l]), "smuggled-by-egress") {
						n++
					}
				}
			})
			done <- n
		}()
		<-ready
		listen(from.Path, func(fd int) {
			for _, f := range frames {
				dev, err := net.InterfaceByName("eth0")
				if err != nil {
					t.Error(err)
					return
				}
				if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
					t.Error(err)
				}
			}
		})
		return <-done
	}
	if got := send(other); got < 7 {
		t.Errorf("without a policy, %d of 7 frames arrive: the test sees nothing", got)
	}
	if got := send(none); got != 0 {
		t.Errorf("%d frames reach a neighbour in spite of the policy", got)
	}
	e := c.Egress("none")
	if e == nil || e.DeniedPackets < 7 {
		t.Errorf("counted: %+v", e)
	}
	sh(t, "nft delete table bridge hezi-frames")
	eventually(t, "the rules", func() error {
		if !c.table.Intact() {
			return errors.New("not restored")
		}
		return nil
	})
	if now := c.Egress("none"); now.DeniedPackets < e.DeniedPackets {
		t.Errorf("counted: %+v, and before the rules were written anew %+v", now, e)
	}
}

// TestEgressNames: names open what they stand for, for as long as that is good, and no
// other name is asked for.
func TestEgressNames(t *testing.T) {
	var told told
	o := testOptions(t, "names")
	o.IPv6, o.Denied = true, told.tell
	nameServer(t, &o, map[string][]string{"good.test": {worldV4, worldV6}, "www.good.test": {worldV4}, "meta.test": {"169.254.169.254", "fe80::1", "10.9.9.9", "127.0.0.1", "198.51.100.1"}, "bad.test": {worldV4}})
	c := open(t, o)
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	egressWorld(t)
	lanOf(t, c, "red", network.CreateRequest{})
	db := c.box(t, "db", "", nil, "red")
	web := c.box(t, "web", "allow=good.test:80,meta.test,db:80/tcp", nil, "red")
	twin := c.box(t, "twin", "allow=good.test:80", nil, "red")
	world := netip.MustParseAddr(worldV4)
	reaches(t, web, world, 80, false, "before the name was asked for")
	for name, want := range map[string]dnsmessage.RCode{"good.test": 0, "meta.test": 0, "bad.test": dnsmessage.RCodeRefused, "www.good.test": dnsmessage.RCodeRefused, "secret.bad.test": dnsmessage.RCodeRefused} {
		for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			if code, _, err := lookup(web.Path, name, typ); err != nil || code != want {
				t.Errorf("%s: answered %v, %v", name, code, err)
			}
		}
	}
	reaches(t, web, world, 80, true, "once the name was asked for")
	reaches(t, web, netip.MustParseAddr(worldV6), 80, true, "once the name was asked for")
	reaches(t, web, world, 81, false, "another port of the name")
	reaches(t, twin, world, 80, false, "a name that another container asked for")
	for _, a := range []string{"169.254.169.254", "10.9.9.9", "198.51.100.1"} {
		reaches(t, web, netip.MustParseAddr(a), 22, false, "an inner address that a name claims")
	}
	v4, v6 := addressesIn(db, 0)
	reaches(t, web, v4, 80, false, "before the container's name was asked for")
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		if code, n, err := lookup(web.Path, "db", typ); err != nil || code != 0 || n != 1 {
			t.Error("db:", code, n, err)
		}
	}
	reaches(t, web, v4, 80, true, "a container's name")
	reaches(t, web, v6, 80, true, "a container's name")
	if e := c.Egress("web"); e == nil || e.DeniedNames != 6 {
		t.Errorf("refused names: %+v", e)
	}
	eventually(t, "an event of a name", func() error {
		if told.of("web", "secret.bad.test", "dns") == 0 {
			return errors.New(told.all())
		}
		return nil
	})

	// What others flush comes back, with the addresses of names and what was counted.
	had := c.Egress("web")
	for _, harm := range []string{"nft flush ruleset", "nft delete table bridge hezi-names", "nft flush table inet hezi-names", "nft flush chain bridge hezi-names from", "nft flush map inet hezi-names egress_of"} {
		sh(t, harm)
		eventually(t, harm, func() error {
			if !c.table.Intact() {
				return errors.New("not restored")
			}
			return nil
		})
		reaches(t, web, world, 80, true, "after "+harm)
		reaches(t, web, world, 81, false, "after "+harm)
		reaches(t, twin, world, 80, false, "after "+harm)
		now := c.Egress("web")
		if now.DeniedPackets <= had.DeniedPackets || now.DeniedBytes <= had.DeniedBytes {
			t.Errorf("after %s %+v is counted, before %+v", harm, now, had)
		}
		had = now
	}

	// What is learned ends.
	learned := strings.Count(sh(t, "nft list table inet hezi-names"), worldV4+" timeout")
	if learned != 1 {
		t.Errorf("%d sets have the name's address:\n%s", learned, sh(t, "nft list table inet hezi-names"))
	}
}

// TestEgressChanges: a policy holds in networks that a container joins while it runs, and
// until it has left; and it can be changed.
func TestEgressChanges(t *testing.T) {
	o := testOptions(t, "changes")
	o.IPv6 = true
	c := open(t, o)
	egressWorld(t)
	lanOf(t, c, "red", network.CreateRequest{})
	lanOf(t, c, "blue", network.CreateRequest{})
	lanOf(t, c, "held", network.CreateRequest{Labels: map[string]string{egress.Label: "none"}})
	blue := c.box(t, "blue1", "", nil, "blue")
	box := c.box(t, "box", "none", nil, "red")
	plain := c.box(t, "plain", "", nil, "red")
	world := netip.MustParseAddr(worldV4)
	if _, err := c.Connect(context.Background(), "box", EndpointRequest{Network: "blue"}); err != nil {
		t.Fatal(err)
	}
	v4, v6 := addressesIn(blue, 0)
	for _, a := range []netip.Addr{v4, v6, world} {
		reaches(t, box, a, 80, false, "after a connection")
	}
	if _, err := c.Disconnect(context.Background(), "box", "red"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{v4, v6, world} {
		reaches(t, box, a, 80, false, "after it left the first network")
	}
	reaches(t, plain, world, 80, true, "without a policy")
	if _, err := c.Connect(context.Background(), "plain", EndpointRequest{Network: "held", GwPriority: 1}); err != nil {
		t.Fatal(err)
	}
	reaches(t, plain, world, 80, false, "by a network with a policy")
	if _, err := c.Disconnect(context.Background(), "plain", "held"); err != nil {
		t.Fatal(err)
	}
	reaches(t, plain, world, 80, true, "after it left that network")

	if err := c.SetEgress("plain", "allow=198.51.100.2:80"); err != nil {
		t.Fatal(err)
	}
	reaches(t, plain, world, 80, true, "allowed later")
	var conn net.Conn
	if err := in(plain.Path, func() (err error) {
		u, err := net.Dial("udp", worldV4+":80")
		conn = u
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say := func() error {
		conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := conn.Write([]byte("?")); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 64))
		return err
	}
	if err := say(); err != nil {
		t.Error(err)
	}
	if err := c.SetEgress("plain", "none"); err != nil {
		t.Fatal(err)
	}
	reaches(t, plain, world, 80, false, "denied later")
	if say() == nil {
		t.Error("a connection that is not allowed any more goes on")
	}
	if err := c.SetEgress("plain", ""); err != nil {
		t.Fatal(err)
	}
	reaches(t, plain, world, 80, true, "without a policy again")
	if err := c.SetEgress("plain", "allow="); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	for _, id := range []string{"plain", "box"} {
		c.Release(id)
	}
	dropEnds(t)
	noPolicies(t, "hezi-changes")
}

// TestEgressRestart: policies hold while no engine runs, and the next one takes them over
// with what was learned; what is nobody's goes.
func TestEgressRestart(t *testing.T) {
	o := testOptions(t, "restart")
	nameServer(t, &o, map[string][]string{"good.test": {worldV4}})
	first := open(t, o)
	if err := first.Sweep(); err != nil {
		t.Fatal(err)
	}
	egressWorld(t)
	box, gone := first.box(t, "box", "allow=good.test:80", bind("80/tcp", "", "8070"), "bridge"), first.box(t, "gone", "none", nil, "bridge")
	if code, _, err := lookup(box.Path, "good.test", dnsmessage.TypeA); err != nil || code != 0 {
		t.Fatal(code, err)
	}
	world := netip.MustParseAddr(worldV4)
	check := func(when string) {
		t.Helper()
		reaches(t, box, world, 80, true, when)
		reaches(t, box, world, 81, false, when)
		reaches(t, nil, netip.MustParseAddr("198.51.100.1"), 8070, true, when)
	}
	check("with the first engine")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	check("without an engine")
	for _, flushed := range []bool{false, true} {
		if flushed {
			sh(t, "nft flush ruleset")
		}
		c := open(t, o)
		if _, err := c.Adopt(context.Background(), SandboxRequest{ContainerID: "box", Endpoints: onBridge(), ContainerName: "box", Egress: "allow=good.test:80"}, box); err != nil {
			t.Fatal(err)
		}
		if err := c.Sweep(); err != nil {
			t.Fatal(err)
		}
		if flushed { // what was learned is lost; the policy is not
			reaches(t, box, world, 80, false, "after all was flushed without an engine")
			c.Release("box")
			continue
		}
		check("with the next engine")
		var next denials
		if err := next.prime(c.table); err != nil || len(next.last) == 0 {
			t.Error("what was told would be told again by the next engine:", err)
		}
		if out := sh(t, "nft list table inet hezi-restart"); strings.Contains(out, gone.Endpoints[0].Outside) {
			t.Error("what nobody claimed is left:\n" + out)
		}
		if e := c.Egress("box"); e == nil || e.Policy != "allow=good.test:80" || e.DeniedPackets == 0 {
			t.Errorf("%+v", e)
		}
		lanOf(t, c, "later", network.CreateRequest{})
		v4, _ := addressesIn(c.box(t, "near", "", nil, "later"), 0)
		if _, err := c.Connect(context.Background(), "box", EndpointRequest{Network: "later"}); err != nil {
			t.Fatal(err)
		}
		reaches(t, box, v4, 80, false, "by a network that it joined at the next engine")
		if _, err := c.Disconnect(context.Background(), "box", "later"); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// dropEnds removes the interfaces of containers: their namespaces stay for the servers in
// them.
func dropEnds(t *testing.T) {
	t.Helper()
	sh(t, `for d in $(ip -o link show type veth | sed -n 's/^[0-9]*: \(hz[^@:]*\).*/\1/p'); do ip link del $d; done`)
}

func noPolicies(t *testing.T, table string) {
	t.Helper()
	eventually(t, "nothing is left of policies", func() error {
		if out := sh(t, "nft list table inet "+table+"; nft list tables bridge"); strings.Contains(out, "egress") || strings.Contains(out, "table bridge "+table) {
			return errors.New(out)
		}
		return nil
	})
}

// TestEgressShared: who is in the namespace of a container that has ended is held to its
// policy as long as there is its device.
func TestEgressShared(t *testing.T) {
	c := open(t, testOptions(t, "shared"))
	egressWorld(t)
	box := c.box(t, "box", "none", nil, "bridge")
	ns, err := os.Open(box.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c.Release("box")
	eventually(t, "the container has left", func() error {
		if _, err := os.Stat(box.Path); err == nil {
			return errors.New("its namespace is mounted")
		}
		return nil
	})
	left := *box
	left.Path = fmt.Sprintf("/proc/self/fd/%d", ns.Fd())
	reaches(t, &left, netip.MustParseAddr(worldV4), 80, false, "after the container has ended")
	dropEnds(t)
	noPolicies(t, "hezi-shared")
}

// TestEgressBad: where a policy cannot be enforced there is no container.
func TestEgressBad(t *testing.T) {
	o := testOptions(t, "badegress")
	c := open(t, o)
	lanOf(t, c, "alone", network.CreateRequest{Internal: true, EnableIPv6: new(false), Options: map[string]string{"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}})
	sh(t, "ip link add uplink type veth peer name uplink0; ip link set uplink up")
	t.Cleanup(func() { sh(t, "ip link del uplink") })
	lanOf(t, c, "direct", network.CreateRequest{Driver: "macvlan", EnableIPv6: new(false), Options: map[string]string{"parent": "uplink"}})
	for lan, policy := range map[string]string{"alone": "none", "direct": "none", "bridge": "allow=nowhere..else"} {
		_, err := c.Join(context.Background(), SandboxRequest{ContainerID: "x", Endpoints: []EndpointRequest{{Network: lan}}, Egress: policy})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "egress policy") {
			t.Errorf("%s: %v", lan, err)
		}
	}
	if _, err := c.Join(context.Background(), SandboxRequest{ContainerID: "y", Endpoints: []EndpointRequest{{Network: "none"}}, Egress: "none"}); err != nil {
		t.Error(err)
	}
	for _, q := range []network.CreateRequest{
		{Name: "a", Labels: map[string]string{egress.Label: "some"}},
		{Name: "b", Driver: "macvlan", Options: map[string]string{"parent": "uplink"}, Labels: map[string]string{egress.Label: "none"}},
	} {
		if _, err := c.Create(context.Background(), q); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", q.Name, err)
		}
	}
}
