package upstream

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
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"hezi/internal/network/dns/wire"
)

// nameServer answers over UDP and TCP as reply says; nil is silence.
type nameServer struct {
	addr  netip.Addr
	asked atomic.Int32
	mu    sync.Mutex
	reply func(q []byte, stream bool) []byte
	udp   net.PacketConn
	tcp   net.Listener
}

func (s *nameServer) set(f func(q []byte, stream bool) []byte) {
	s.mu.Lock()
	s.reply = f
	s.mu.Unlock()
}

func (s *nameServer) answer(q []byte, stream bool) []byte {
	s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reply(q, stream)
}

// serve starts one at an address of the loopback, on a port that all share.
func serve(t *testing.T, addr string, port *uint16, reply func(q []byte, stream bool) []byte) *nameServer {
	t.Helper()
	s := &nameServer{addr: netip.MustParseAddr(addr), reply: reply}
	for try := 0; ; try++ {
		l, err := net.Listen("tcp", netip.AddrPortFrom(s.addr, *port).String())
		if err != nil {
			t.Fatal(err)
		}
		at := l.Addr().(*net.TCPAddr).AddrPort().Port()
		p, err := net.ListenPacket("udp", netip.AddrPortFrom(s.addr, at).String())
		if err == nil {
			s.tcp, s.udp, *port = l, p, at
			break
		}
		l.Close()
		if try == 20 || *port != 0 {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { s.tcp.Close(); s.udp.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := s.udp.ReadFrom(buf)
			if err != nil {
				return
			}
			q := bytes.Clone(buf[:n])
			go func() {
				if r := s.answer(q, false); r != nil {
					_, _ = s.udp.WriteTo(r, from)
				}
			}()
		}
	}()
	go func() {
		for {
			c, err := s.tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var n [2]byte
				if _, err := io.ReadFull(c, n[:]); err != nil {
					return
				}
				q := make([]byte, binary.BigEndian.Uint16(n[:]))
				if _, err := io.ReadFull(c, q); err != nil {
					return
				}
				if r := s.answer(q, true); r != nil {
					_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
				}
			}()
		}
	}()
	return s
}

// says answers with addresses of a lifetime.
func says(code dnsmessage.RCode, ttl uint32, list ...string) func([]byte, bool) []byte {
	return func(q []byte, _ bool) []byte {
		var m dnsmessage.Message
		if err := m.Unpack(q); err != nil {
			panic(err)
		}
		m.Response, m.RCode, m.Additionals = true, code, nil
		h := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: ttl}
		for _, a := range list {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()}})
		}
		if len(list) == 0 && code == dnsmessage.RCodeNameError {
			m.Authorities = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.SOAResource{NS: h.Name, MBox: h.Name, MinTTL: 60}}}
		}
		r, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return r
	}
}

func silent([]byte, bool) []byte { return nil }

func ask(t *testing.T, name string) *wire.Query {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(b)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// hostOf makes a resolver of a file that lists servers.
func hostOf(t *testing.T, port uint16, servers ...*nameServer) (*Resolver, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	enlist(t, file, servers...)
	return New(&Host{File: file}, port), file
}

func enlist(t *testing.T, file string, servers ...*nameServer) {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintln(&b, "nameserver", s.addr)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, r *Resolver, q *wire.Query, stream bool, from Source, addr string) {
	t.Helper()
	msg, err := r.Ask(t.Context(), q, stream, from)
	if err != nil {
		t.Fatal(err)
	}
	if !wire.Answers(msg, q.Msg) {
		t.Fatalf("the answer %x does not answer %x", msg, q.Msg)
	}
	if got, _ := wire.Addresses(msg); len(got) != 1 || got[0].String() != addr {
		t.Fatalf("%s is %v, want %s", q.Name, got, addr)
	}
}

func TestNextServer(t *testing.T) {
	for name, first := range map[string]func([]byte, bool) []byte{
		"silent": silent, "failing": says(dnsmessage.RCodeServerFailure, 0), "refusing": says(dnsmessage.RCodeRefused, 0),
		"answering with rubbish": func(q []byte, stream bool) []byte { return says(0, 9, "9.9.9.9")(q, stream)[:20] },
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " stream ", stream), func(t *testing.T) {
				var port uint16
				one := serve(t, "127.0.0.2", &port, first)
				two := serve(t, "127.0.0.3", &port, says(0, 60, "192.0.2.1"))
				r, _ := hostOf(t, port, one, two)
				want(t, r, ask(t, "a.example."), stream, Source{}, "192.0.2.1")
				if one.asked.Load() == 0 {
					t.Error("the first server was not asked")
				}
				if name == "silent" { // it is asked last from now on
					before := one.asked.Load()
					want(t, r, ask(t, "b.example."), stream, Source{}, "192.0.2.1")
					if n := one.asked.Load(); n != before {
						t.Error("the server that was silent is still asked first")
					}
				}
			})
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	r := New(&Host{File: filepath.Join(t.TempDir(), "none")}, 1) // nobody is at port 1 of 127.0.0.1
	began := time.Now()
	if _, err := r.Ask(t.Context(), ask(t, "a.example."), false, Source{}); !errors.Is(err, ErrSilence) {
		t.Errorf("nobody listens: %v", err)
	}
	if took := time.Since(began); took >= patience {
		t.Errorf("a refused packet was waited for: %v", took)
	}
	if _, err := r.Ask(t.Context(), ask(t, "a.example."), false, Source{Own: []netip.Addr{}}); !errors.Is(err, ErrSilence) {
		t.Errorf("no server: %v", err)
	}
	var port uint16
	bad := serve(t, "127.0.0.2", &port, says(dnsmessage.RCodeRefused, 0))
	r, _ = hostOf(t, port, bad)
	msg, err := r.Ask(t.Context(), ask(t, "a.example."), false, Source{})
	if err != nil || wire.Rcode(msg) != wire.Refused {
		t.Errorf("the only server refuses: %x, %v", msg, err)
	}
	if n := bad.asked.Load(); n != 1 {
		t.Errorf("a server that refuses was asked %d times", n)
	}
}

func TestKept(t *testing.T) {
	var port uint16
	s := serve(t, "127.0.0.2", &port, says(0, 60, "192.0.2.1"))
	r, _ := hostOf(t, port, s)
	want(t, r, ask(t, "a.example."), false, Source{}, "192.0.2.1")
	upper := ask(t, "A.Example.")
	wire.SetID(upper.Msg, 99)
	want(t, r, upper, false, Source{}, "192.0.2.1")
	want(t, r, ask(t, "a.example."), true, Source{}, "192.0.2.1")
	if n := s.asked.Load(); n != 1 {
		t.Errorf("a name with a lifetime was asked for %d times", n)
	}
	s.set(says(dnsmessage.RCodeNameError, 60))
	for range 2 {
		if msg, err := r.Ask(t.Context(), ask(t, "none.example."), false, Source{}); err != nil || wire.Rcode(msg) != wire.NameError {
			t.Fatalf("a name that is none: %x, %v", msg, err)
		}
	}
	if n := s.asked.Load(); n != 2 {
		t.Errorf("that there is no such name was asked %d times", n-1)
	}
	s.set(says(0, 0, "192.0.2.2"))
	for range 2 {
		want(t, r, ask(t, "zero.example."), false, Source{}, "192.0.2.2")
	}
	if n := s.asked.Load(); n != 4 {
		t.Errorf("a name without a lifetime was asked for %d times, want 2", n-2)
	}
}

func TestLifetimesShrinkAndEnd(t *testing.T) {
	var c cache
	q := ask(t, "a.example.")
	now := time.Now()
	c.put("k", says(0, 60, "192.0.2.1", "192.0.2.2")(q.Msg, false), now)
	_, ttl := wire.Addresses(c.get("k", now.Add(59*time.Second)))
	if ttl != 1 {
		t.Errorf("after 59 s of 60 the lifetime is %d", ttl)
	}
	if c.get("k", now.Add(60*time.Second)) != nil || len(c.byKey) != 0 || c.size != 0 {
		t.Error("an answer is kept after its lifetime")
	}
	cut := says(0, 60, "192.0.2.1")(q.Msg, false)
	cut[2] |= wire.FlagTruncated >> 8
	c.put("k", cut, now)
	c.put("k", says(dnsmessage.RCodeServerFailure, 60)(q.Msg, false), now)
	c.put("k", says(0, 1<<31, "192.0.2.1")(q.Msg, false), now)
	if len(c.byKey) != 0 {
		t.Error("a cut or failed answer is kept")
	}
	for i := range 3 * maxCached / overhead {
		c.put(fmt.Sprint(i), says(0, 60, "192.0.2.1")(q.Msg, false), now)
	}
	if c.size > maxCached || len(c.byKey) != c.order.Len() || len(c.byKey) == 0 {
		t.Errorf("%d bytes are kept in %d answers", c.size, len(c.byKey))
	}
}

func TestChangedServers(t *testing.T) {
	var port uint16
	old := serve(t, "127.0.0.2", &port, says(0, 600, "192.0.2.1"))
	fresh := serve(t, "127.0.0.3", &port, says(0, 600, "192.0.2.2"))
	r, file := hostOf(t, port, old)
	want(t, r, ask(t, "a.example."), false, Source{}, "192.0.2.1")
	enlist(t, file, fresh) // in place, of the same length
	want(t, r, ask(t, "a.example."), false, Source{}, "192.0.2.2")
	// Replaced by a link, in a folder of the file's, that leads to another each time.
	dir := filepath.Dir(file)
	for i, s := range []*nameServer{old, fresh, old} {
		target, link := filepath.Join(dir, fmt.Sprint("real", i)), filepath.Join(dir, "link")
		enlist(t, target, s)
		if err := errors.Join(os.Symlink(target, link), os.Rename(link, file)); err != nil {
			t.Fatal(err)
		}
		want(t, r, ask(t, "a.example."), false, Source{}, map[*nameServer]string{old: "192.0.2.1", fresh: "192.0.2.2"}[s])
	}
	// A query on its way goes on to the new server.
	old.set(silent)
	go func() {
		for old.asked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		enlist(t, file, fresh)
	}()
	old.asked.Store(0)
	want(t, r, ask(t, "b.example."), false, Source{}, "192.0.2.2")
}

// TestOnce: many that ask the same at a time send one query, so that two servers that
// ask each other do not multiply.
func TestOnce(t *testing.T) {
	var port uint16
	s := serve(t, "127.0.0.2", &port, nil)
	s.set(func(q []byte, stream bool) []byte {
		time.Sleep(100 * time.Millisecond)
		return says(0, 0, "192.0.2.1")(q, stream)
	})
	r, _ := hostOf(t, port, s)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			q := ask(t, "a.example.")
			wire.SetID(q.Msg, uint16(i))
			msg, err := r.Ask(context.Background(), q, false, Source{})
			if err != nil || !wire.Answers(msg, q.Msg) {
				t.Errorf("%x, %v", msg, err)
			}
		})
	}
	wg.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("20 at once were %d queries", n)
	}
}

func TestUnguessable(t *testing.T) {
	var port uint16
	var ids sync.Map
	s := serve(t, "127.0.0.2", &port, nil)
	s.set(func(q []byte, stream bool) []byte {
		ids.Store(wire.ID(q), true)
		return says(0, 0, "192.0.2.1")(q, stream)
	})
	r, _ := hostOf(t, port, s)
	for range 16 {
		want(t, r, ask(t, "a.example."), false, Source{}, "192.0.2.1")
	}
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if n < 12 {
		t.Errorf("16 queries had %d ids", n)
	}
}

// TestForged: what has another id or question than was sent is passed over.
func TestForged(t *testing.T) {
	conn, far := net.Pipe()
	defer conn.Close()
	q := ask(t, "a.example.")
	good := says(0, 60, "192.0.2.1")(q.Msg, false)
	id, name := says(0, 60, "6.6.6.6")(q.Msg, false), says(0, 60, "6.6.6.6")(q.Msg, false)
	id[1]++
	name[13] = 'x'
	go func() {
		defer far.Close()
		_, err := far.Read(make([]byte, 512))
		for _, m := range [][]byte{id, name, q.Msg, nil, good} {
			if err == nil && m != nil {
				_, err = far.Write(m)
			}
		}
	}()
	msg, err := overUDP(conn, q.Msg)
	if got, _ := wire.Addresses(msg); err != nil || len(got) != 1 || got[0].String() != "192.0.2.1" {
		t.Errorf("believed %v, %v", got, err)
	}
}

// TestUnread: a server that could not read the question is heard at once.
func TestUnread(t *testing.T) {
	var port uint16
	s := serve(t, "127.0.0.2", &port, func(q []byte, _ bool) []byte {
		return []byte{q[0], q[1], 0x80, wire.FormatError, 0, 0, 0, 0, 0, 0, 0, 0}
	})
	r, _ := hostOf(t, port, s)
	began := time.Now()
	for _, stream := range []bool{false, true} {
		msg, err := r.Ask(t.Context(), ask(t, "a.example."), stream, Source{})
		if err != nil || len(msg) != wire.HeaderLen || wire.Rcode(msg) != wire.FormatError || wire.ID(msg) != 7 {
			t.Errorf("%x, %v", msg, err)
		}
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("after %v", took)
	}
}

func TestLong(t *testing.T) {
	var port uint16
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf("10.9.%d.%d", i/250, i%250))
	}
	s := serve(t, "127.0.0.2", &port, says(0, 60, many...))
	r, _ := hostOf(t, port, s)
	msg, err := r.Ask(t.Context(), ask(t, "a.example."), false, Source{})
	if err != nil || !wire.Truncated(msg) {
		t.Fatalf("an answer over UDP that is too long is not cut: %d bytes, %v", len(msg), err)
	}
	msg, err = r.Ask(t.Context(), ask(t, "a.example."), true, Source{})
	if got, _ := wire.Addresses(msg); err != nil || len(got) != 1000 {
		t.Errorf("over TCP: %d addresses, %v", len(got), err)
	}
}

func TestHost(t *testing.T) {
	dir := t.TempDir()
	h := &Host{File: filepath.Join(dir, "resolv.conf"), Resolved: filepath.Join(dir, "resolved")}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string) {
		t.Helper()
		list, _ := h.Servers()
		if got := fmt.Sprint(list); got != want {
			t.Errorf("servers %s, want %s", got, want)
		}
	}
	check("[127.0.0.1]")
	write("resolv.conf", "# none\nsearch a b\n")
	check("[127.0.0.1]")
	write("resolv.conf", "nameserver 127.0.0.53\noptions edns0\n")
	check("[127.0.0.53]")
	write("resolved", "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n")
	check("[127.0.0.53 192.0.2.1 fe80::1%eth0]")
	write("resolved", "nameserver 192.0.2.2\n")
	check("[127.0.0.53 192.0.2.2]")
	write("resolv.conf", "nameserver 1.1.1.1\nnameserver x\nnameserver ::1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\n")
	check("[1.1.1.1 ::1 2.2.2.2]")
	_, gen := h.Servers()
	if _, again := h.Servers(); again != gen {
		t.Error("the number changes without the servers")
	}
	if err := os.Remove(h.File); err != nil {
		t.Fatal(err)
	}
	check("[127.0.0.1]")
}

func FuzzCache(f *testing.F) {
	f.Add([]byte("\x00\x01\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x01\x02\x03\x04"))
	f.Fuzz(func(_ *testing.T, msg []byte) {
		if len(msg) < wire.HeaderLen {
			return
		}
		var c cache
		now := time.Now()
		c.put("k", msg, now)
		c.get("k", now.Add(time.Second))
	})
}

// TestBoundedSockets: queries that nobody answers have no more sockets than there may be,
// however many there are and however often each is tried; a half is for first tries.
func TestBoundedSockets(t *testing.T) {
	var port uint16
	r, _ := hostOf(t, 0, serve(t, "127.0.0.1", &port, silent))
	r.port, r.most = port, 8
	var names atomic.Int32
	asked := make(chan error, 30)
	many := func(n int) {
		for range n {
			q := ask(t, fmt.Sprint("n", names.Add(1), ".example."))
			go func() {
				_, err := r.Ask(context.Background(), q, false, Source{})
				asked <- err
			}()
		}
	}
	sockets := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.sockets
	}
	many(3)
	time.Sleep(moment + moment/2) // each has tried again, if it might
	if n := sockets(); n != r.most/2 {
		t.Errorf("3 queries have %d sockets, want %d", n, r.most/2)
	}
	many(20)
	for range 16 { // 4 find a place
		if err := <-asked; !errors.Is(err, ErrSilence) {
			t.Error(err)
		}
	}
	if n := sockets(); n != r.most {
		t.Errorf("%d sockets, want %d", n, r.most)
	}
	for range 7 {
		<-asked
	}
	for until := time.Now().Add(time.Second); sockets() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d sockets are left", sockets())
		}
	}
}
