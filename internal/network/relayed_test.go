package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/bindings"
	"hezi/internal/relay"
)

// withRelay are the options of an engine whose ports answer at ::1.
func withRelay(t *testing.T, identity string) Options {
	o := testOptions(t, identity)
	o.Relay = relayOf(o)
	t.Cleanup(func() {
		if err := relay.Stop(context.Background(), o.ExecRoot); err != nil {
			t.Error(err)
		}
	})
	return o
}

func relayOf(o Options) *relay.Client {
	return relay.NewClient(relay.Options{ExecRoot: o.ExecRoot, Binary: "/proc/self/exe", Log: slog.Default()})
}

// relayPID is the process that relays; 0: none.
func relayPID(t *testing.T, o Options) int {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range list {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "relay\x00--root\x00"+o.ExecRoot+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// asked is who a server on port 80 sees, without the port.
func asked(proto, addr string) (string, error) {
	who, err := ask("", proto, addr)
	if h, _, err := net.SplitHostPort(who); err == nil {
		who = h
	}
	return strings.ReplaceAll(who, "_", ":"), err
}

func reached(t *testing.T, proto, addr, who string) {
	t.Helper()
	eventually(t, proto+" to "+addr, func() error {
		got, err := asked(proto, addr)
		if err == nil && got != who {
			return fmt.Errorf("seen as %s, not %s", got, who)
		}
		return err
	})
}

func bothProtocols(host, hostPort string) network.PortMap {
	m := bind("80/tcp", host, hostPort)
	for p, l := range bind("80/udp", host, hostPort) {
		m[p] = l
	}
	return m
}

// TestRelay: ports answer at the host's ::1, of containers with IPv4 alone and with both,
// and at no other of its addresses by the relay; a port is another's again when its
// container is gone.
func TestRelay(t *testing.T) {
	o := withRelay(t, "relay")
	c := open(t, o)
	ctx := context.Background()
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	if relayPID(t, o) != 0 {
		t.Error("it runs without a port")
	}
	four := join(t, c, "four", bothProtocols("", "8360"))
	serve(t, four.Path)
	gateway := four.Endpoints[0].Settings.Gateway.String()
	reached(t, "tcp", "[::1]:8360", gateway)
	reached(t, "udp", "[::1]:8360", gateway)
	answers(t, "", "tcp", "127.0.0.1:8360", "*")
	if len(four.Sockets) != 4 {
		t.Errorf("%d sockets to keep", len(four.Sockets))
	}

	lan := []EndpointRequest{{Network: lanOf(t, c, "six", network.CreateRequest{})}}
	six, err := c.Join(ctx, SandboxRequest{ContainerID: "six", Endpoints: lan, Ports: bothProtocols("", "8361")})
	if err != nil {
		t.Fatal(err)
	}
	serveBoth(t, six.Path)
	reached(t, "tcp", "[::1]:8361", six.Endpoints[0].Settings.IPv6Gateway.String())
	one, err := c.Join(ctx, SandboxRequest{ContainerID: "one", Endpoints: lan, Ports: bothProtocols("::1", "8362")})
	if err != nil {
		t.Fatal(err)
	}
	serveBoth(t, one.Path)
	reached(t, "tcp", "[::1]:8362", one.Endpoints[0].Settings.IPv6Gateway.String())

	sh(t, `ip -6 addr replace 2001:db8:9::1/128 dev lo nodad`)
	if _, err := asked("tcp", "[2001:db8:9::1]:8360"); err == nil {
		t.Error("a container without IPv6 is reached at another address than ::1")
	}
	sh(t, `nft flush ruleset`)
	if who, err := asked("tcp", "[2001:db8:9::1]:8361"); err == nil && who != "2001:db8:9::1" && who != six.Endpoints[0].Settings.IPv6Gateway.String() {
		t.Errorf("while there are no rules: %s", who)
	}

	for _, tc := range []struct {
		ports network.PortMap
		says  string
	}{
		{bind("80/sctp", "::1", "8363"), "only tcp and udp"},
		{bindRange(network.TCP, "::1", 8400, 8470, 100), "at most 64"},
	} {
		if _, err := c.Join(ctx, SandboxRequest{ContainerID: "bad", Endpoints: lan, Ports: tc.ports}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.says, err)
		}
	}
	if _, err := c.Join(ctx, SandboxRequest{ContainerID: "bad", Endpoints: onBridge(), Ports: bind("80/tcp", "::1", "8360")}); !errdefs.IsConflict(err) {
		t.Errorf("a place that another has: %v", err)
	}

	c.Release("four")
	eventually(t, "the port is given back", func() error {
		if _, err := asked("tcp", "[::1]:8360"); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("at ::1: %v", err)
		}
		return nil
	})
	// Whoever has ::1 keeps it: the port is published all the same.
	l, err := net.Listen("tcp6", "[::1]:8364")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	beside := join(t, c, "beside", bind("80/tcp", "", "8364"))
	serve(t, beside.Path)
	answers(t, "", "tcp", "127.0.0.1:8364", "*")
}

// echo answers what it reads, for as long as it is asked.
func echo(t *testing.T, path string) {
	t.Helper()
	err := in(path, func() error {
		l, err := net.Listen("tcp", ":90")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() { defer conn.Close(); io.Copy(conn, conn) }()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// line is an open connection that is asked.
type line struct {
	net.Conn
	r *bufio.Reader
}

func dialLine(t *testing.T, addr string) *line {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &line{conn, bufio.NewReader(conn)}
}

func (l *line) ask() error {
	if err := l.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(l, "hello\n"); err != nil {
		return err
	}
	got, err := l.r.ReadString('\n')
	if err == nil && got != "hello\n" {
		err = fmt.Errorf("%q", got)
	}
	return err
}

// TestRelaySurvives: a connection goes on while one engine ends and another comes, and new
// ones are taken meanwhile; after the relay was killed the next one goes on with the same
// sockets. Changes of ports are followed, and nothing is left.
func TestRelaySurvives(t *testing.T) {
	o := withRelay(t, "relay2")
	first, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Sweep(); err != nil {
		t.Fatal(err)
	}
	ports := bind("90/tcp", "", "8370")
	a := join(t, first, "a", ports)
	echo(t, a.Path)
	open1 := dialLine(t, "[::1]:8370")
	if err := open1.ask(); err != nil {
		t.Fatal(err)
	}
	var kept []int // as the keeper does
	for _, fd := range a.Sockets {
		k, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, k)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open1.ask(); err != nil {
		t.Errorf("without an engine: %v", err)
	}
	if err := dialLine(t, "[::1]:8370").ask(); err != nil {
		t.Errorf("a new connection without an engine: %v", err)
	}
	o.Relay = relayOf(o)
	c := open(t, o)
	got, err := c.Adopt(context.Background(), SandboxRequest{ContainerID: "a", Endpoints: onBridge(), Ports: ports, PortSockets: kept}, a)
	if err != nil || len(got.Sockets) != len(a.Sockets) {
		t.Fatalf("%+v: %v", got, err)
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	if err := open1.ask(); err != nil {
		t.Errorf("with the next engine: %v", err)
	}
	pid := relayPID(t, o)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := dialLine(t, "[::1]:8370").ask(); err != nil {
		t.Errorf("after the relay was killed: %v", err)
	}

	// Ports come and go; what is open goes on.
	open2 := dialLine(t, "[::1]:8370")
	if err := open2.ask(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Republish(context.Background(), "a", bind("90/tcp", "::1", "8371"), bind("90/tcp", "", "8370")); err != nil {
		t.Fatal(err)
	}
	if err := dialLine(t, "[::1]:8371").ask(); err != nil {
		t.Errorf("a port that was added: %v", err)
	}
	if err := open2.ask(); err != nil {
		t.Errorf("a connection of a port that was taken away: %v", err)
	}

	if _, err := ask("", "tcp", "[::1]:8370"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port that was taken away: %v", err)
	}

	pid = relayPID(t, o)
	before := files(t, pid)
	for range 30 {
		l := dialLine(t, "[::1]:8371")
		if err := l.ask(); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	eventually(t, "the relay closes what has ended", func() error {
		if now := files(t, pid); now > before+4 {
			return fmt.Errorf("%d files, %d before", now, before)
		}
		return nil
	})
	c.Release("a")
	eventually(t, "open connections end with the container", func() error {
		if open2.ask() == nil {
			return errors.New("it goes on")
		}
		return nil
	})
	eventually(t, "the relay ends", func() error {
		if relayPID(t, o) != 0 {
			return errors.New("it runs")
		}
		return nil
	})
}

func files(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestRelayWidens: a container that joins a network with IPv6 while it runs has its port
// on all addresses then, and at ::1 still.
func TestRelayWidens(t *testing.T) {
	o := withRelay(t, "relay3")
	c := open(t, o)
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	ctx, ports := context.Background(), bind("80/tcp", "", "8380")
	a := join(t, c, "a", ports)
	lan := lanOf(t, c, "wide", network.CreateRequest{})
	box, err := c.Connect(ctx, "a", EndpointRequest{Network: lan, GwPriority: 1})
	if err != nil {
		t.Fatal(err)
	}
	add, again := bindings.Widened(ports, box.Ports)
	if box, err = c.Republish(ctx, "a", add, again); err != nil {
		t.Fatal(err)
	}
	serveBoth(t, a.Path)
	sh(t, `ip -6 addr replace 2001:db8:8::1/128 dev lo nodad`)
	answers(t, "", "tcp", "[2001:db8:8::1]:8380", "*")
	reached(t, "tcp", "[::1]:8380", box.In(c.lanID(lan)).Settings.IPv6Gateway.String())
	if _, err := c.Disconnect(ctx, "a", lan); err != nil {
		t.Fatal(err)
	}
	reached(t, "tcp", "[::1]:8380", a.Endpoints[0].Settings.Gateway.String())
	if n := len(c.members["a"].beside); n != 1 {
		t.Errorf("%d places beside", n)
	}
}

func (c *registry) lanID(name string) string {
	for id, l := range c.lans {
		if l.Name == name {
			return id
		}
	}
	return ""
}
