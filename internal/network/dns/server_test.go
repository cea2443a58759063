package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hezi/internal/network/dns/names"
	"hezi/internal/network/dns/sockets"
	"hezi/internal/network/dns/upstream"
	"hezi/internal/network/dns/wire"
)

// space is a network namespace with lo, in which functions run.
type space struct {
	path string
	jobs chan func()
}

func newSpace(t testing.TB) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	s := &space{jobs: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and it ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}})
		}
		s.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		ready <- err
		for f := range s.jobs {
			f()
		}
	}()
	t.Cleanup(func() { close(s.jobs) })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *space) do(f func()) {
	done := make(chan struct{})
	s.jobs <- func() { defer close(done); f() }
	<-done
}

func (s *space) dial(t testing.TB, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	s.do(func() { c, err = net.DialTimeout(network, addr, 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *space) sockets(t testing.TB) sockets.Pair {
	t.Helper()
	var p sockets.Pair
	var err error
	s.do(func() { p, err = sockets.Open(false) })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const asked = "127.0.0.11:53"

// town is a server with a container in a namespace, and its names.
type town struct {
	*Server
	*space
	pair sockets.Pair
	file string // the host's servers
}

func newTown(t testing.TB, change func(*Options, *Box)) *town {
	t.Helper()
	sp := newSpace(t)
	table := names.New()
	table.Set("me", names.Place{Network: "n", Label: "net", Names: []string{"me"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}})
	table.Set("db", names.Place{Network: "n", Label: "net", Names: []string{"db"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")}})
	for i := range 100 {
		table.Set(fmt.Sprint("m", i), names.Place{Network: "n", Label: "net", Names: []string{fmt.Sprint("many", i), "many"}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})}})
	}
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 127.0.0.2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{Names: table, Upstream: upstream.New(&upstream.Host{File: file}, 1)}
	b := Box{Container: "me", Sockets: sp.sockets(t), Policy: Policy{Forward: true, Namespace: sp.path}}
	if change != nil {
		change(&o, &b)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(s.Add(b), s.Begin(), s.Begin()); err != nil {
		t.Fatal(err)
	}
	return &town{s, sp, b.Sockets, file}
}

func question(t testing.TB, name string, typ dnsmessage.Type, edns int) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}}}
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(edns, 0, true); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func say(t testing.TB, c net.Conn, q []byte) {
	t.Helper()
	if c.LocalAddr().Network() == "tcp" {
		q = append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	}
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
}

func hear(t testing.TB, c net.Conn) *dnsmessage.Message {
	t.Helper()
	buf := make([]byte, 1<<16)
	var n int
	var err error
	if c.LocalAddr().Network() == "tcp" {
		if _, err = io.ReadFull(c, buf[:2]); err == nil {
			n, err = io.ReadFull(c, buf[:binary.BigEndian.Uint16(buf)])
		}
	} else {
		n, err = c.Read(buf)
	}
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:n]); err != nil {
		t.Fatalf("%x: %v", buf[:n], err)
	}
	return &m
}

func (w *town) ask(t testing.TB, network, name string, typ dnsmessage.Type, edns int) *dnsmessage.Message {
	t.Helper()
	c := w.dial(t, network, asked)
	defer c.Close()
	say(t, c, question(t, name, typ, edns))
	m := hear(t, c)
	if m.ID != 77 || !m.Response || !m.RecursionAvailable || !m.RecursionDesired || len(m.Questions) != 1 || m.Questions[0].Name.String() != name {
		t.Errorf("%s %s is answered by %v", network, name, m.GoString())
	}
	return m
}

func texts(m *dnsmessage.Message) (list []string) {
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			list = append(list, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			list = append(list, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			list = append(list, b.PTR.String())
		default:
			list = append(list, fmt.Sprintf("%T", b))
		}
	}
	slices.Sort(list)
	return list
}

func TestOurNames(t *testing.T) {
	w := newTown(t, nil)
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name string
			typ  dnsmessage.Type
			want string
		}{
			{"db.", dnsmessage.TypeA, "[10.0.0.3]"}, {"DB.net.", dnsmessage.TypeA, "[10.0.0.3]"}, {"db.", dnsmessage.TypeAAAA, "[fd00::3]"},
			{"me.", dnsmessage.TypeAAAA, "[]"}, {"db.", dnsmessage.TypeMX, "[]"}, {"db.", 65, "[]"}, {"db.", dnsmessage.TypeALL, "[10.0.0.3 fd00::3]"},
			{"3.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, "[db.net.]"},
			{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "[db.net.]"},
		} {
			for _, edns := range []int{0, 1232} {
				m := w.ask(t, network, c.name, c.typ, edns)
				if got := fmt.Sprint(texts(m)); m.RCode != 0 || got != c.want || (edns > 0) != (len(m.Additionals) == 1) {
					t.Errorf("%s %s %v (EDNS %d): %s %v, %d additional, want %s", network, c.name, c.typ, edns, got, m.RCode, len(m.Additionals), c.want)
				}
				if len(m.Answers) > 0 && m.Answers[0].Header.TTL != lifetime {
					t.Errorf("%s is good for %d s", c.name, m.Answers[0].Header.TTL)
				}
			}
		}
	}
}

func TestManyAddresses(t *testing.T) {
	w := newTown(t, nil)
	if m := w.ask(t, "udp", "many.", dnsmessage.TypeA, 0); !m.Truncated || len(m.Answers) != (512-12-10)/16 {
		t.Errorf("in 512 bytes: %d, truncated %v", len(m.Answers), m.Truncated)
	}
	if m := w.ask(t, "udp", "many.", dnsmessage.TypeA, 1232); !m.Truncated || len(m.Answers) != (1232-12-10-11)/16 {
		t.Errorf("in 1232 bytes: %d, truncated %v", len(m.Answers), m.Truncated)
	}
	first := map[string]bool{}
	for range 20 {
		m := w.ask(t, "tcp", "many.", dnsmessage.TypeA, 0)
		if m.Truncated || len(m.Answers) != 100 {
			t.Fatalf("over TCP: %d, truncated %v", len(m.Answers), m.Truncated)
		}
		first[m.Answers[0].Body.GoString()] = true
	}
	if len(first) < 5 {
		t.Errorf("the first of 100 addresses is one of %d in 20 answers", len(first))
	}
}

func TestBadQuestions(t *testing.T) {
	w := newTown(t, nil)
	c := w.dial(t, "udp", asked)
	good := question(t, "db.", dnsmessage.TypeA, 0)
	for name, f := range map[string]struct {
		change func([]byte) []byte
		want   dnsmessage.RCode
	}{
		"an update":     {func(b []byte) []byte { b[2] |= 5 << 3; return b }, dnsmessage.RCodeNotImplemented},
		"two questions": {func(b []byte) []byte { b[5] = 2; return b }, dnsmessage.RCodeFormatError},
		"cut":           {func(b []byte) []byte { return b[:14] }, dnsmessage.RCodeFormatError},
		"a transfer":    {func([]byte) []byte { return question(t, "db.", 252, 0) }, dnsmessage.RCodeNotImplemented},
	} {
		say(t, c, f.change(bytes.Clone(good)))
		if m := hear(t, c); m.RCode != f.want || m.ID != 77 {
			t.Errorf("%s: %v, want %v", name, m.RCode, f.want)
		}
	}
	future := question(t, "db.", dnsmessage.TypeA, 1232)
	future[len(future)-5] = 1 // EDNS's version
	say(t, c, future)
	if m := hear(t, c); len(m.Additionals) != 1 || m.Additionals[0].Header.ExtendedRCode(m.RCode) != 16 {
		t.Errorf("EDNS of another version: %v", m.GoString())
	}
	// These get no answer, and the next question does.
	for _, silent := range [][]byte{{}, {1}, good[:11], append(bytes.Clone(good[:2]), append([]byte{0x81}, good[3:]...)...), make([]byte, 60000)} {
		say(t, c, silent)
	}
	say(t, c, good)
	if m := hear(t, c); fmt.Sprint(texts(m)) != "[10.0.0.3]" {
		t.Errorf("after what is not answered: %v", m.GoString())
	}
}

// TestWhatIsNotForwarded: without a way out, or with ndots for a name without a dot.
func TestWhatIsNotForwarded(t *testing.T) {
	w := newTown(t, func(_ *Options, b *Box) { b.Forward = false })
	if m := w.ask(t, "udp", "a.example.", dnsmessage.TypeA, 0); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("from an internal network: %v", m.RCode)
	}
	w.SetPolicy("me", Policy{Forward: true, Dotted: true})
	if m := w.ask(t, "udp", "alone.", dnsmessage.TypeA, 0); m.RCode != 0 || len(m.Answers) != 0 {
		t.Errorf("without a dot: %v", m.GoString())
	}
	w.SetPolicy("me", Policy{Own: []netip.Addr{netip.AddrFrom4(sockets.Address)}, Namespace: w.path})
	if m := w.ask(t, "udp", "a.example.", dnsmessage.TypeA, 0); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("a server that is ourselves: %v", m.RCode)
	}
}

// outside serves names at an address and port 53 of a namespace: any name is addr.
func (s *space) outside(t testing.TB, at string, addr [4]byte, reply func(net.PacketConn, net.Addr, []byte)) {
	t.Helper()
	var p net.PacketConn
	var l net.Listener
	var err error
	s.do(func() {
		p, err = net.ListenPacket("udp", at)
		if err == nil {
			l, err = net.Listen("tcp", at)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(q []byte) []byte {
		var m dnsmessage.Message
		if m.Unpack(q) != nil {
			return nil
		}
		m.Response, m.RecursionAvailable = true, true
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 9}, Body: &dnsmessage.AResource{A: addr}}}
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		return b
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply != nil {
				reply(p, from, buf[:n])
			} else {
				_, _ = p.WriteTo(answer(buf[:n]), from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			if n, err := c.Read(buf); err == nil && n > 2 {
				a := answer(buf[2:n])
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { p.Close(); l.Close() })
}

// TestOwnServers: a container's servers are asked from its namespace.
func TestOwnServers(t *testing.T) {
	sp := newSpace(t)
	sp.outside(t, "127.0.0.7:53", [4]byte{192, 0, 2, 7}, nil)
	table := names.New()
	s, err := New(Options{Names: table, Upstream: upstream.New(&upstream.Host{File: "/nonexistent"}, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &town{Server: s, space: sp, pair: sp.sockets(t)}
	err = s.Add(Box{Container: "me", Sockets: w.pair, Policy: Policy{Own: []netip.Addr{netip.MustParseAddr("127.0.0.7")}, Namespace: sp.path}})
	if err = errors.Join(err, s.Begin()); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := fmt.Sprint(texts(w.ask(t, network, network+".example.", dnsmessage.TypeA, 0))); got != "[192.0.2.7]" {
			t.Errorf("over %s: %s", network, got)
		}
	}
}

// TestOwnServersOnLink: an address of a link is that of the container's.
func TestOwnServersOnLink(t *testing.T) {
	sp := newSpace(t)
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "test0"}, PeerName: "test1"}
	var index int
	var err error
	sp.do(func() {
		if err = netlink.LinkAdd(link); err != nil {
			return
		}
		for _, name := range []string{"test0", "test1"} {
			var l netlink.Link
			if l, err = netlink.LinkByName(name); err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				return
			}
			if index == 0 {
				index = l.Attrs().Index
				err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fe80::7"), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD})
			}
		}
	})
	if err != nil {
		t.Skip("no IPv6: ", err)
	}
	sp.outside(t, fmt.Sprintf("[fe80::7%%%d]:53", index), [4]byte{192, 0, 2, 7}, nil)
	s, err := New(Options{Names: names.New(), Upstream: upstream.New(&upstream.Host{File: "/nonexistent"}, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &town{Server: s, space: sp, pair: sp.sockets(t)}
	how := Policy{Own: []netip.Addr{netip.MustParseAddr("fe80::7%test0")}, Namespace: sp.path}
	if err := errors.Join(s.Add(Box{Container: "me", Sockets: w.pair, Policy: how}), s.Begin()); err != nil {
		t.Fatal(err)
	}
	for _, zone := range []string{"test0", fmt.Sprint(index)} {
		how.Own[0] = how.Own[0].WithZone(zone)
		s.SetPolicy("me", how)
		for _, network := range []string{"udp", "tcp"} {
			if got := fmt.Sprint(texts(w.ask(t, network, network+".example.", dnsmessage.TypeA, 0))); got != "[192.0.2.7]" {
				t.Errorf("at the zone %s over %s: %s", zone, network, got)
			}
		}
	}
	// Ourselves, however it is written, would be a circle.
	if p := clean(Policy{Own: []netip.Addr{netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("::ffff:127.0.0.11")}}); len(p.Own) != 0 || p.Own == nil {
		t.Errorf("asks %v", p.Own)
	}
}

// TestOwnServersAgain: what a container's own servers said, which may be programs inside it, is
// not what the next container hears that has the same servers and the file of its namespace,
// nor what it hears itself once it is in other networks.
func TestOwnServersAgain(t *testing.T) {
	sp := newSpace(t)
	var n byte
	sp.outside(t, "127.0.0.7:53", [4]byte{}, func(p net.PacketConn, to net.Addr, q []byte) {
		var m dnsmessage.Message
		if err := m.Unpack(q); err != nil {
			t.Error(err)
		}
		n++
		m.Response, m.RecursionAvailable = true, true
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 600}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, n}}}}
		a, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		_, _ = p.WriteTo(a, to)
	})
	s, err := New(Options{Names: names.New(), Upstream: upstream.New(&upstream.Host{File: "/nonexistent"}, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	how := Policy{Own: []netip.Addr{netip.MustParseAddr("127.0.0.7")}, Namespace: sp.path}
	w := &town{Server: s, space: sp, pair: sp.sockets(t)}
	if err := errors.Join(s.Add(Box{Container: "one", Sockets: w.pair, Policy: how}), s.Begin()); err != nil {
		t.Fatal(err)
	}
	is := func(want, when string) {
		t.Helper()
		if got := fmt.Sprint(texts(w.ask(t, "udp", "a.example.", dnsmessage.TypeA, 0))); got != want {
			t.Errorf("%s: %s, not %s", when, got, want)
		}
	}
	is("[192.0.2.1]", "at first")
	is("[192.0.2.1]", "kept")
	s.SetPolicy("one", how)
	is("[192.0.2.2]", "in other networks")
	if err := s.Remove("one"); err != nil {
		t.Fatal(err)
	}
	w.do(func() { w.pair, err = sockets.Open(true) })
	if err := errors.Join(err, s.Add(Box{Container: "two", Sockets: w.pair, Policy: how})); err != nil {
		t.Fatal(err)
	}
	is("[192.0.2.3]", "another container")
}

// TestAway: while nobody serves, questions wait in the socket; the next server
// answers them.
func TestAway(t *testing.T) {
	w := newTown(t, nil)
	var copies sockets.Pair
	var err, err2 error
	copies.UDP, err = unix.FcntlInt(uintptr(w.pair.UDP), unix.F_DUPFD_CLOEXEC, 0)
	copies.TCP, err2 = unix.FcntlInt(uintptr(w.pair.TCP), unix.F_DUPFD_CLOEXEC, 0)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	if !sockets.Valid(copies) || sockets.Valid(sockets.Pair{UDP: copies.TCP, TCP: copies.UDP}) {
		t.Error("the sockets are not known again")
	}
	udp, tcp := w.dial(t, "udp", asked), w.dial(t, "tcp", asked)
	for _, c := range []net.Conn{udp, tcp} {
		say(t, c, question(t, "db.", dnsmessage.TypeA, 0))
	}
	next, err := New(Options{Names: w.names, Upstream: w.Upstream})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := next.Add(Box{Container: "me", Sockets: copies}); err != nil {
		t.Fatal(err)
	}
	// Not before all are taken back.
	buf := make([]byte, 512)
	if err := udp.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := udp.Read(buf); err == nil {
		t.Errorf("answered before Begin: %x", buf[:n])
	}
	if err := errors.Join(udp.SetReadDeadline(time.Now().Add(20*time.Second)), next.Begin()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{udp, tcp} {
		if got := fmt.Sprint(texts(hear(t, c))); got != "[10.0.0.3]" {
			t.Errorf("%s: %s", c.LocalAddr().Network(), got)
		}
	}
}

// TestAgain: sockets that are made anew take the place of those before.
func TestAgain(t *testing.T) {
	w := newTown(t, nil)
	if err := w.Remove("me"); err != nil {
		t.Fatal(err)
	}
	var err error
	w.do(func() { w.pair, err = sockets.Open(true) })
	if err == nil {
		err = w.Add(Box{Container: "me", Sockets: w.pair})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := fmt.Sprint(texts(w.ask(t, network, "db.", dnsmessage.TypeA, 0))); got != "[10.0.0.3]" {
			t.Errorf("%s: %s", network, got)
		}
	}
}

// TestAdmit: the addresses are told before the answer leaves, and an error keeps it.
func TestAdmit(t *testing.T) {
	var mu sync.Mutex
	var told []string
	fail := false
	w := newTown(t, func(o *Options, _ *Box) {
		o.Admit = func(_ context.Context, container, name string, list []netip.Addr, ttl time.Duration) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprint(container, " ", name, " ", list, " ", ttl))
			if fail {
				return errors.New("the kernel is full")
			}
			return nil
		}
	})
	w.ask(t, "udp", "db.", dnsmessage.TypeA, 0)
	mu.Lock()
	if fmt.Sprint(told) != "[me db [10.0.0.3] 5s]" {
		t.Errorf("told %v", told)
	}
	fail = true
	mu.Unlock()
	if m := w.ask(t, "udp", "db.", dnsmessage.TypeA, 0); m.RCode != dnsmessage.RCodeServerFailure || len(m.Answers) > 0 {
		t.Errorf("an address that is not admitted is told: %v", m.GoString())
	}
}

// TestSlowClients: connections that say nothing, or half a question, keep none from
// asking, and are bounded.
func TestSlowClients(t *testing.T) {
	w := newTown(t, nil)
	var held []net.Conn
	for i := range 3 * maxConnsOfOne {
		c := w.dial(t, "tcp", asked)
		held = append(held, c)
		if _, err := c.Write([]byte{0, 40, byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(texts(w.ask(t, "tcp", "db.", dnsmessage.TypeA, 0))); got != "[10.0.0.3]" {
		t.Errorf("beside slow clients: %s", got)
	}
	if _, err := held[0].Read(make([]byte, 1)); err == nil {
		t.Error("the oldest connection is still open")
	}
	w.mu.Lock()
	n, all := len(w.boxes["me"].conns), w.conns
	w.mu.Unlock()
	if n > maxConnsOfOne || all != n {
		t.Errorf("%d connections of one container are open, %d of all", n, all)
	}
	// Many questions on one connection, at once.
	c := w.dial(t, "tcp", asked)
	for range 100 {
		say(t, c, question(t, "db.", dnsmessage.TypeA, 0))
	}
	for range 100 {
		hear(t, c)
	}
}

// TestDeafClient: a connection whose client takes no answers ends: each of its other questions
// would wait as long, and what followed half an answer could not be read.
func TestDeafClient(t *testing.T) {
	w := newTown(t, nil)
	c := w.dial(t, "tcp", asked)
	if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	many := question(t, "many.", dnsmessage.TypeA, 0)
	go func() {
		for range 4000 { // their answers are more than buffers hold
			if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(many))), many...)); err != nil {
				return
			}
		}
	}()
	open := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.boxes["me"].conns)
	}
	for open() == 0 {
		time.Sleep(time.Millisecond)
	}
	for until := time.Now().Add(2*slow - time.Second); open() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the connection is still served")
		}
	}
}

// TestBoundedForwards: a container that floods is refused what is too much, and
// another still asks.
func TestBoundedForwards(t *testing.T) {
	host := newSpace(t) // of the host's servers
	host.outside(t, "127.0.0.2:53", [4]byte{}, func(net.PacketConn, net.Addr, []byte) {})
	w := newTown(t, func(o *Options, b *Box) {
		o.Upstream = upstream.New(&upstream.Host{}, 53)
		b.Own, b.Namespace = []netip.Addr{netip.MustParseAddr("127.0.0.2")}, host.path
	})
	c := w.dial(t, "udp", asked)
	for i := range 3 * maxOfOne {
		say(t, c, question(t, fmt.Sprint("n", i, ".example."), dnsmessage.TypeA, 0))
	}
	if m := hear(t, c); m.RCode != dnsmessage.RCodeRefused {
		t.Errorf("a flood is answered by %v", m.RCode)
	}
	w.mu.Lock()
	if n := w.forwards; n > maxOfOne {
		t.Errorf("%d queries of one container are on their way", n)
	}
	w.mu.Unlock()
}

// TestDestroyed: a socket that the container destroyed does not keep the server busy,
// and the other containers' go on.
func TestDestroyed(t *testing.T) {
	w := newTown(t, nil)
	if _, err := exec.LookPath("ss"); err != nil {
		t.Skip("needs ss (iproute2)")
	}
	var out []byte
	var err error
	w.do(func() { out, err = exec.Command("ss", "-K", "-a", "-n", "src", "127.0.0.11").CombinedOutput() })
	if err != nil || strings.Contains(string(out), "not supported") || sockets.Valid(w.pair) {
		t.Skipf("this kernel does not destroy sockets (CONFIG_INET_DIAG_DESTROY): %s %v", out, err)
	}
	for range 1000 {
		w.mu.Lock()
		n := len(w.ears)
		w.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the dead sockets are still listened to")
}

// TestClosed: nothing runs on, and no descriptor stays.
func TestClosed(t *testing.T) {
	w := newTown(t, nil)
	w.dial(t, "tcp", asked)
	w.ask(t, "udp", "db.", dnsmessage.TypeA, 0)
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if sockets.Valid(w.pair) {
		t.Error("the sockets are open")
	}
	if err := w.Add(Box{Container: "x"}); err == nil {
		t.Error("a closed server takes a container")
	}
}

// TestClosing: what is asked while the server ends is not refused for good.
func TestClosing(t *testing.T) {
	host := newSpace(t)
	host.outside(t, "127.0.0.2:53", [4]byte{}, func(net.PacketConn, net.Addr, []byte) {})
	w := newTown(t, func(o *Options, b *Box) {
		o.Upstream = upstream.New(&upstream.Host{}, 53)
		b.Own, b.Namespace = []netip.Addr{netip.MustParseAddr("127.0.0.2")}, host.path
	})
	first := w.dial(t, "udp", asked) // it holds up the end
	say(t, first, question(t, "slow.example.", dnsmessage.TypeA, 0))
	c := w.dial(t, "tcp", asked)
	say(t, c, question(t, "db.", dnsmessage.TypeA, 0))
	hear(t, c)
	state := func() (forwards int, closed bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.forwards, w.closed
	}
	for n := 0; n == 0; n, _ = state() {
		time.Sleep(time.Millisecond)
	}
	done := make(chan error)
	go func() { done <- w.Close() }()
	for closed := false; !closed; _, closed = state() {
		time.Sleep(time.Millisecond)
	}
	say(t, c, question(t, "late.example.", dnsmessage.TypeA, 0))
	if n, err := c.Read(make([]byte, 512)); err == nil {
		t.Errorf("answered with %d bytes", n)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func BenchmarkLookup(b *testing.B) {
	w := newTown(b, nil)
	c := w.dial(b, "udp", asked)
	q, buf := question(b, "db.", dnsmessage.TypeA, 0), make([]byte, 512)
	b.ResetTimer()
	for b.Loop() {
		if _, err := c.Write(q); err != nil {
			b.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || !wire.Answers(buf[:n], q) {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkSockets(b *testing.B) {
	for range b.N {
		b.StopTimer()
		sp := newSpace(b)
		b.StartTimer()
		if err := sp.sockets(b).Close(); err != nil {
			b.Fatal(err)
		}
	}
}
