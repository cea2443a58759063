package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"hezi/test/harness"
)

// dig asks from inside a container's network.
func dig(t testing.TB, e *harness.Engine, container string, args ...string) (string, error) {
	t.Helper()
	pid := e.Must(t, "inspect", "-f", "{{.State.Pid}}", container)
	out, err := exec.Command("nsenter", append([]string{"-n", "-t", pid, "dig", "@127.0.0.11"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// nameServer serves UDP and TCP at an address's port 53: every name is addr, and big.test
// has two hundred addresses.
func nameServer(t *testing.T, at, addr string) {
	t.Helper()
	p, err := net.ListenPacket("udp", net.JoinHostPort(at, "53"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(at, "53"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); l.Close() })
	answer := func(q []byte, room int) []byte {
		var m dnsmessage.Message
		if m.Unpack(q) != nil || len(m.Questions) != 1 {
			return nil
		}
		for _, r := range m.Additionals {
			if r.Header.Type == dnsmessage.TypeOPT && room < 1<<16 {
				room = max(room, int(r.Header.Class))
			}
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		h := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 600}
		if m.Questions[0].Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(addr).To4())}}}
		}
		if m.Questions[0].Name.String() == "big.test." {
			m.Answers = nil
			for i := range 200 {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: [4]byte{10, 53, 0, byte(i)}}})
			}
		}
		b, err := m.Pack()
		if err == nil && len(b) > room {
			m.Truncated, m.Answers = true, nil
			b, err = m.Pack()
		}
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
			_, _ = p.WriteTo(answer(buf[:n], 512), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
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
				if _, err := io.ReadFull(c, q); err == nil {
					a := answer(q, 1<<16)
					_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
				}
			}()
		}
	}()
}

// TestNamesOutside: names go to the host's servers, whose file is followed, over UDP
// and TCP; to the container's own servers from its network; and nowhere from an internal
// network.
func TestNamesOutside(t *testing.T) {
	nameServer(t, "127.53.0.1", "192.0.2.1")
	nameServer(t, "127.53.0.2", "192.0.2.2")
	file := filepath.Join(t.TempDir(), "resolv.conf")
	servers := func(list ...string) {
		t.Helper()
		text := "search corp.test\n"
		for _, s := range list {
			text += "nameserver " + s + "\n"
		}
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o644), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	servers("127.53.0.1")
	e := harness.Start(t, "--resolv-conf", file)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "run", "-d", "--name", "c1", "busybox", "sleep", "1000")
	if got := e.Must(t, "exec", "c1", "cat", "/etc/resolv.conf"); !strings.Contains(got, "ExtServers: [host(127.53.0.1)]") || !strings.Contains(got, "search corp.test") {
		t.Errorf("resolv.conf says\n%s", got)
	}
	is := func(want string, args ...string) {
		t.Helper()
		if got, err := dig(t, e, "c1", append(args, "+short", "+tries=1")...); err != nil || got != want {
			t.Errorf("dig %v: %q, %v, want %q", args, got, err, want)
		}
	}
	is("192.0.2.1", "www.test")
	is("192.0.2.1", "+tcp", "www.test")
	servers("127.53.0.2") // at once, and the old answer is forgotten
	is("192.0.2.2", "www.test")
	servers("127.53.0.9", "127.53.0.1") // nobody is at the first
	is("192.0.2.1", "www.test")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"+noedns", "+ignore"}, "flags: qr tc rd ra"},
		{[]string{"+noedns"}, "ANSWER: 200"}, // asked again over TCP
		{[]string{"+bufsize=4096", "+ignore"}, "ANSWER: 200"},
		{[]string{"+tcp"}, "ANSWER: 200"},
		{[]string{"+dnssec", "+bufsize=512", "+ignore"}, "tc rd ra"},
	} {
		if got, err := dig(t, e, "c1", append(c.args, "big.test")...); err != nil || !strings.Contains(got, c.want) {
			t.Errorf("dig %v big.test has no %q: %v\n%s", c.args, c.want, err, got)
		}
	}
	gateway := e.Must(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
	nameServer(t, gateway, "192.0.2.3")
	e.Must(t, "run", "-d", "--name", "own", "--dns", gateway, "busybox", "sleep", "1000")
	for _, network := range []string{"+notcp", "+tcp"} {
		if got, err := dig(t, e, "own", "+short", network, "www.test"); err != nil || got != "192.0.2.3" {
			t.Errorf("of --dns, %s: %q, %v", network, got, err)
		}
	}
	e.Must(t, "network", "create", "--internal", "inside")
	e.Must(t, "run", "-d", "--name", "shut", "--network", "inside", "busybox", "sleep", "1000")
	if got, _ := dig(t, e, "shut", "www.test"); !strings.Contains(got, "SERVFAIL") {
		t.Errorf("from an internal network: %s", got)
	}
	if got, err := dig(t, e, "shut", "+short", "shut"); err != nil || !strings.HasPrefix(got, "1") {
		t.Errorf("in an internal network: %q, %v", got, err)
	}
}

// TestNamesOfOneThatWasInNone: a container that got its first network while it ran asks for
// names over an engine that is killed, as others do.
func TestNamesOfOneThatWasInNone(t *testing.T) {
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "network", "create", "later")
	e.Must(t, "run", "-d", "--name", "left", "--network", "none", "busybox", "sleep", "1000")
	e.Must(t, "network", "disconnect", "none", "left")
	e.Must(t, "network", "connect", "later", "left")
	for _, when := range []string{"when it was connected", "after hezid was killed"} {
		if got := e.Must(t, "exec", "left", "nslookup", "-type=a", "left"); !strings.Contains(got, "Name:") {
			t.Errorf("%s: %q", when, got)
		}
		e.Kill()
		if err := e.Up(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNamesWhileHezidIsAway: what a container asks while hezid is dead is answered when
// it is back, whether or not the keeper died too; and no look-up fails for good.
func TestNamesWhileHezidIsAway(t *testing.T) {
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "network", "create", "n")
	for _, name := range []string{"c1", "c2"} {
		e.Must(t, "run", "-d", "--name", name, "--network", "n", "busybox", "sleep", "1000")
	}
	want := e.Must(t, "inspect", "-f", "{{.NetworkSettings.Networks.n.IPAddress}}", "c2")
	pid := e.Must(t, "inspect", "-f", "{{.State.Pid}}", "c1")
	ask := func(args ...string) (string, error) {
		out, err := exec.Command("nsenter", append([]string{"-n", "-t", pid, "dig", "@127.0.0.11", "+short", "c2"}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for _, what := range []string{"hezid", "hezid and the keeper", "hezid, the keeper and its holder"} {
		keeper, holder := e.Keeper()
		e.Kill()
		var victims []int
		if what != "hezid" {
			victims = append(victims, keeper)
		}
		if strings.HasSuffix(what, "holder") {
			victims = []int{holder, keeper} // or the holder starts another
		}
		for _, p := range victims {
			if proc, err := os.FindProcess(p); err != nil || proc.Kill() != nil {
				t.Fatal(what, p, err)
			}
		}
		var wg sync.WaitGroup
		tries := "+tries=1" // the question waits
		if len(victims) == 2 {
			tries = "+tries=10" // nobody kept the socket
		}
		for i := range 4 {
			wg.Go(func() {
				args := []string{tries, "+time=20"}
				if tries != "+tries=1" {
					args[1] = "+time=3"
				} else if i%2 == 1 {
					args = append(args, "+tcp")
				}
				if got, err := ask(args...); err != nil || !strings.HasSuffix(got, want) {
					t.Errorf("%s died, dig %v: %q, %v, want %s", what, args, got, err, want)
				}
			})
		}
		time.Sleep(300 * time.Millisecond) // they have asked
		if err := e.Up(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if got, err := ask("+tcp"); err != nil || got != want {
			t.Errorf("afterwards: %q, %v", got, err)
		}
	}
	// Under a stream of look-ups, none is lost.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if got, err := ask("+tries=2", "+time=10", fmt.Sprintf("+%stcp", []string{"no", ""}[n%2])); err != nil || !strings.HasSuffix(got, want) { // dig tells of a connection that it had to make anew
				t.Errorf("look-up %d: %q, %v", n, got, err)
				return
			}
		}
	})
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		e.Kill()
		if err := e.Up(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}
