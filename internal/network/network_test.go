package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"hezi/internal/network/netns"
	"hezi/internal/relay"
)

// TestMain runs the tests in a network and mount namespace of their own: it is their host.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == relay.Command {
		os.Exit(relay.Run(os.Args[2:], func(string) error { return nil }, func(root string) bool { _, err := os.Stat(root); return err == nil }))
	}
	if os.Getenv("HEZI_NETWORK_TEST") != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			panic(string(out))
		}
		os.Exit(m.Run())
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of the network must run as root")
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "HEZI_NETWORK_TEST=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}

func testOptions(t testing.TB, identity string) Options {
	return Options{Identity: identity, DataRoot: t.TempDir(), ExecRoot: t.TempDir(), ICC: true, IPForward: true, IPMasq: true, IPTables: true, IP6Tables: true}
}

// onBridge is a place in the network bridge.
func onBridge() []EndpointRequest { return []EndpointRequest{{Network: "bridge"}} }

func open(t testing.TB, o Options) *Controller {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.mu.Lock()
		left := slices.Collect(maps.Keys(c.members))
		c.mu.Unlock()
		for _, id := range left {
			c.Release(id)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func join(t testing.TB, c *Controller, id string, ports network.PortMap) *Sandbox {
	t.Helper()
	s, err := c.Join(context.Background(), SandboxRequest{ContainerID: id, ContainerName: "/" + id, Endpoints: onBridge(), Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bind(port, host, hostPort string) network.PortMap {
	b := network.PortBinding{HostPort: hostPort}
	if host != "" {
		b.HostIP = netip.MustParseAddr(host)
	}
	return network.PortMap{network.MustParsePort(port): {b}}
}

// in runs f on a thread that is in the namespace at path; "" is the host.
func in(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		if path != "" {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			ns, err := os.Open(path)
			if err != nil {
				done <- err
				return
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	}()
	return <-done
}

// serve answers every client on tcp and udp port 80 with the client's address.
func serve(t testing.TB, path string) {
	t.Helper()
	err := in(path, func() error {
		l, err := net.Listen("tcp4", "0.0.0.0:80")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp4", "0.0.0.0:80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, conn.RemoteAddr())
				conn.Close()
			}
		}()
		go func() {
			b := make([]byte, 64)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo([]byte(from.String()), from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask is what the server at addr says who we are.
func ask(path, proto, addr string) (who string, err error) {
	err = in(path, func() error {
		conn, err := net.DialTimeout(proto, addr, 500*time.Millisecond)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
		if proto == "udp" {
			fmt.Fprint(conn, "?")
			b := make([]byte, 64)
			n, err := conn.Read(b)
			who = string(b[:n])
			return err
		}
		b, err := io.ReadAll(conn)
		who = string(b)
		return err
	})
	who, _, _ = strings.Cut(who, ":")
	return who, err
}

func sh(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// outsideWorld makes a namespace beyond the host, 198.51.100.2 to its 198.51.100.1.
func outsideWorld(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "outside")
	if err := netns.Make(path, "", nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Remove(path); exec.Command("ip", "link", "del", "world").Run() })
	sh(t, `ip link add world type veth peer name w0; ip addr add 198.51.100.1/24 dev world; ip link set world up
		nsenter --net=`+path+` true; ip link set w0 netns `+fmt.Sprint(pidIn(t, path))+`
		nsenter --net=`+path+` sh -ec 'ip addr add 198.51.100.2/24 dev w0; ip link set w0 up; ip route add default via 198.51.100.1'`)
	return path
}

// pidIn starts a process in a namespace and ends it with the test.
func pidIn(t *testing.T, path string) int {
	cmd := exec.Command("nsenter", "--net="+path, "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	time.Sleep(100 * time.Millisecond) // until nsenter has joined
	return cmd.Process.Pid
}

func TestReachability(t *testing.T) {
	c := open(t, testOptions(t, "reach"))
	world := outsideWorld(t)
	ports := bind("80/tcp", "", "8080")
	ports[network.MustParsePort("80/udp")] = []network.PortBinding{{HostPort: "8080"}}
	a := join(t, c, "a", ports)
	b := join(t, c, "b", bind("80/tcp", "127.0.0.1", "8081"))
	serve(t, a.Path)
	serve(t, b.Path)
	serve(t, world)
	ipA, ipB, gw := a.Endpoints[0].Settings.IPAddress.String(), b.Endpoints[0].Settings.IPAddress.String(), c.Gateways()[0].String()
	for _, x := range []struct {
		name, from, proto, to, who string // who "": unreachable
	}{
		{"host loopback", "", "tcp", "127.0.0.1:8080", gw},
		{"host loopback", "", "udp", "127.0.0.1:8080", gw},
		{"host address", "", "tcp", gw + ":8080", gw},
		{"host outer address", "", "tcp", "198.51.100.1:8080", "*"},
		{"host outer address", "", "udp", "198.51.100.1:8080", "*"},
		{"other container", b.Path, "tcp", gw + ":8080", gw},
		{"other container", b.Path, "udp", "198.51.100.1:8080", gw},
		{"itself", a.Path, "tcp", gw + ":8080", gw},
		{"itself", a.Path, "udp", gw + ":8080", gw},
		{"direct", b.Path, "tcp", ipA + ":80", ipB},
		{"outside", world, "tcp", "198.51.100.1:8080", "198.51.100.2"},
		{"outside", world, "udp", "198.51.100.1:8080", "198.51.100.2"},
		{"egress", a.Path, "tcp", "198.51.100.2:80", "198.51.100.1"},
		{"egress", a.Path, "udp", "198.51.100.2:80", "198.51.100.1"},
		{"routed", world, "tcp", ipA + ":80", ""},
		{"routed", world, "udp", ipB + ":80", ""},
		{"loopback binding", "", "tcp", "127.0.0.1:8081", gw},
		{"loopback binding", world, "tcp", "198.51.100.1:8081", ""},
		{"loopback binding", "", "tcp", gw + ":8081", ""},
	} {
		if x.who != "" {
			answers(t, x.from, x.proto, x.to, x.who)
		} else if who, err := ask(x.from, x.proto, x.to); err == nil {
			t.Errorf("%s %s to %s: reachable, seen as %q", x.name, x.proto, x.to, who)
		}
	}
	sh(t, "nft flush ruleset")
	answers(t, world, "tcp", "198.51.100.1:8080", "198.51.100.2")
}

func TestConflicts(t *testing.T) {
	c := open(t, testOptions(t, "conf"))
	ctx := context.Background()
	join(t, c, "one", bind("80/tcp", "", "8090"))
	_, err := c.Join(ctx, SandboxRequest{ContainerID: "two", Endpoints: onBridge(), Ports: bind("80/tcp", "127.0.0.1", "8090")})
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "Bind for 127.0.0.1:8090 failed: port is already allocated") || !strings.Contains(err.Error(), "one") {
		t.Errorf("our port: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:8091")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = c.Join(ctx, SandboxRequest{ContainerID: "two", Endpoints: onBridge(), Ports: bind("80/tcp", "", "8091")})
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "failed to bind host port 0.0.0.0:8091/tcp: address already in use by ") || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a program's port: %v", err)
	}
	if _, err := net.Listen("tcp", "127.0.0.1:8090"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a program took a published port: %v", err)
	}
	s := join(t, c, "two", bind("80/tcp", "", "8090-8092"))
	if got := s.Ports[network.MustParsePort("80/tcp")][0].HostPort; got != "8092" {
		t.Errorf("range gave %s", got)
	}
	if _, err := c.Join(ctx, SandboxRequest{ContainerID: "x", Endpoints: []EndpointRequest{{Network: "nosuch"}}}); !errdefs.IsNotFound(err) || err.Error() != "network nosuch not found" {
		t.Errorf("unknown network: %v", err)
	}
	c.Release("one")
	join(t, c, "three", bind("80/tcp", "", "8090")) // at once
}

func TestNothingIsLeft(t *testing.T) {
	o := testOptions(t, "leak")
	c := open(t, o)
	settle := func() { // until the pool is full and the dead are buried
		for range 200 {
			c.mu.Lock()
			calm := len(c.bridge().pool) == 4 && len(c.dying)+len(c.releasing) == 0
			c.mu.Unlock()
			if calm {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Error("the pool does not settle")
	}
	count := func() [5]int {
		fds, _ := os.ReadDir("/proc/self/fd")
		ns, _ := os.ReadDir(c.handles())
		return [5]int{len(fds), len(ns), c.table.Len(), c.ports.Len(), strings.Count(sh(t, "ip -o link"), "\n")}
	}
	settle()
	before, routines := count(), runtime.NumGoroutine()
	for range 100 {
		join(t, c, "x", bind("80/tcp", "", "8070"))
		c.Release("x")
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			id := fmt.Sprint("p", i)
			if _, err := c.Join(context.Background(), SandboxRequest{ContainerID: id, Endpoints: onBridge(), Ports: bind("80/udp", "", "")}); err != nil {
				t.Error(err)
			}
			c.Release(id)
		})
	}
	wg.Wait()
	settle()
	if after := count(); after != before {
		t.Errorf("descriptors, handles, elements, ports, links: %v before, %v after", before, after)
	}
	if n := runtime.NumGoroutine(); n > routines+1 {
		t.Errorf("%d goroutines before, %d after", routines, n)
	}
}

// TestFull: what is full is said.
func TestFull(t *testing.T) {
	l := &lan{Config: Config{Name: "many"}}
	for errno, want := range map[unix.Errno]string{unix.EXFULL: "the network many is full", unix.EMFILE: "LimitNOFILE"} {
		if err := portError(l, fmt.Errorf("make: %w", errno)); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// TestNotAdopted: the sockets of a container that cannot be taken back are closed, which
// would keep its network for ever.
func TestNotAdopted(t *testing.T) {
	c := open(t, testOptions(t, "unkept"))
	join(t, c, "there", nil)
	for id, want := range map[string]func(error) bool{"gone": errdefs.IsNotFound, "there": errdefs.IsConflict} {
		at := &Sandbox{Path: "/nonexistent", Asks: true}
		if id == "there" {
			at.Path = c.members[id].path
		}
		var pipe [2]int
		err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pipe[0])
		if _, err := c.Adopt(context.Background(), SandboxRequest{ContainerID: id, NameSockets: pipe[1:]}, at); !want(err) {
			t.Errorf("%s: %v", id, err)
		}
		if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("%s: what was kept is open (%v)", id, err)
		}
	}
}

func TestRestart(t *testing.T) {
	o := testOptions(t, "again")
	first := open(t, o)
	a, gone := join(t, first, "a", bind("80/tcp", "", "8060")), join(t, first, "gone", bind("80/tcp", "", "8061"))
	serve(t, a.Path)
	id := first.NetworkID("bridge")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8060", "*") // while no engine runs
	c := open(t, o)
	got, err := c.Adopt(context.Background(), SandboxRequest{ContainerID: "a", Endpoints: onBridge(), ContainerName: "a"}, a)
	if err != nil {
		t.Fatal(err)
	}
	if got.Endpoints[0].Settings.IPAddress != a.Endpoints[0].Settings.IPAddress || got.Endpoints[0].Settings.EndpointID != a.Endpoints[0].Settings.EndpointID || c.NetworkID("bridge") != id {
		t.Errorf("adopted as %+v, was %+v", got.Endpoints, a.Endpoints)
	}
	if err := c.Sweep(); err != nil {
		t.Fatal(err)
	}
	answers(t, "", "tcp", "127.0.0.1:8060", "*") // after adoption
	if netns.Mounted(gone.Path) || c.table.Len() != 1 {
		t.Errorf("what nobody claimed is left: %v %d", netns.Mounted(gone.Path), c.table.Len())
	}
	n, err := c.Inspect(context.Background(), "bridge")
	if err != nil || len(n.Containers) != 1 || n.Containers["a"].IPv4Address.Addr() != a.Endpoints[0].Settings.IPAddress {
		t.Errorf("inspect: %+v %v", n, err)
	}
}

// TestOverlapLater: a network of the host's that comes up later, as a VPN's, moves the
// bridge at the next start, but not from under running containers.
func TestOverlapLater(t *testing.T) {
	o := testOptions(t, "later")
	o.Pool = -1
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := join(t, c, "a", nil)
	subnet := c.Subnet()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	sh(t, "ip link add vpn type veth peer name vpn0; ip link set vpn up; ip link set vpn0 up; ip addr add "+subnet.Addr().Next().Next().Next().String()+"/20 dev vpn")
	defer exec.Command("ip", "link", "del", "vpn").Run()
	if c, err = New(o); err != nil {
		t.Fatal(err)
	}
	if c.Subnet() != subnet {
		t.Errorf("a container runs in %s, and the bridge went to %s", subnet, c.Subnet())
	}
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "the network bridge has the subnet "+subnet.String()) || !strings.Contains(w, "by vpn") {
		t.Errorf("warnings: %s", w)
	}
	if _, err := c.Adopt(context.Background(), SandboxRequest{ContainerID: "a", ContainerName: "/a", Endpoints: onBridge()}, s); err != nil {
		t.Error(err)
	}
	c.Release("a")
	eventually(t, "the container is gone", func() error {
		if entries, _ := os.ReadDir(c.handles()); len(entries) > 0 {
			return errors.New("its namespace is there")
		}
		return nil
	})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if c = open(t, o); c.Subnet() == subnet {
		t.Errorf("the bridge stays in %s, which the host has elsewhere", subnet)
	}
}

func TestTwoEngines(t *testing.T) {
	x, y := open(t, testOptions(t, "left")), open(t, testOptions(t, "right"))
	if x.Subnet().Overlaps(y.Subnet()) || x.bridge().bridge == y.bridge().bridge {
		t.Fatalf("%s %s and %s %s collide", x.bridge().bridge, x.Subnet(), y.bridge().bridge, y.Subnet())
	}
	a, b := join(t, x, "a", nil), join(t, y, "b", bind("80/tcp", "", "8050"))
	serve(t, b.Path)
	if _, err := ask(a.Path, "tcp", b.Endpoints[0].Settings.IPAddress.String()+":80"); err == nil {
		t.Error("an unpublished port of the other engine is reachable")
	}
	answers(t, a.Path, "tcp", x.Gateways()[0].String()+":8050", "*") // a published port of the other engine
}

func BenchmarkJoinRelease(b *testing.B) {
	c := open(b, testOptions(b, "bench"))
	var joins, both []time.Duration
	for b.Loop() {
		time.Sleep(5 * time.Millisecond) // the pool is warm again
		start := time.Now()
		join(b, c, "x", bind("80/tcp", "", ""))
		joins = append(joins, time.Since(start))
		c.Release("x")
		both = append(both, time.Since(start))
	}
	slices.Sort(joins)
	slices.Sort(both)
	b.ReportMetric(float64(joins[len(joins)/2].Microseconds()), "join-p50-us")
	b.ReportMetric(float64(both[len(both)/2].Microseconds()), "both-p50-us")
}
