package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hezi/test/harness"
)

// subnet of the wire between the host and the machine beside it (TEST-NET-2).
const (
	wireHost, wireOther = "198.51.100.1", "198.51.100.2"
	bareNear, bareFar   = "198.51.100.5", "198.51.100.6"
)

// wire is a bare veth pair between two namespaces, and another machine that is
// one veth away from the host.
const wire = `set -e
for n in near far other; do ip netns add hezi-bench-$n; ip -n hezi-bench-$n link set lo up; done
ip link add hzb-near netns hezi-bench-near type veth peer name hzb-far netns hezi-bench-far
ip -n hezi-bench-near addr add ` + bareNear + `/30 dev hzb-near
ip -n hezi-bench-far addr add ` + bareFar + `/30 dev hzb-far
ip -n hezi-bench-near link set hzb-near up
ip -n hezi-bench-far link set hzb-far up
ip link add hzb-host type veth peer name hzb-other netns hezi-bench-other
ip addr add ` + wireHost + `/30 dev hzb-host
ip -n hezi-bench-other addr add ` + wireOther + `/30 dev hzb-other
ip link set hzb-host up
ip -n hezi-bench-other link set hzb-other up
ip -n hezi-bench-other route add default via ` + wireHost

// path is where traffic goes from, and where to.
type path struct {
	name           string
	client, server string // network namespaces, as files; "" is the host's
	address        string // that the client connects to
	serverPort     int
	clientPort     int
}

func sh(script string) error {
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// traffic measures throughput and connections per second, of our containers and,
// where one answers, of docker's, beside a veth pair with nothing else.
func traffic(e *harness.Engine, rounds int) (err error) {
	if _, err := exec.LookPath("iperf3"); err != nil {
		fmt.Println("throughput: not measured, because iperf3 is not installed (apt-get install iperf3)")
		return nil
	}
	remove := "for n in near far other; do ip netns del hezi-bench-$n 2>/dev/null; done; ip link del hzb-host 2>/dev/null; exit 0"
	defer func() { err = errors.Join(err, sh(remove)) }()
	if err := sh(wire); err != nil {
		return err
	}
	paths := []path{{name: "bare veth pair", client: "/run/netns/hezi-bench-near", server: "/run/netns/hezi-bench-far", address: bareFar, serverPort: 5201, clientPort: 5201}}
	ours, drop, err := engineTraffic("hezi", harness.Bin()+"/hezi", e.Env())
	defer drop()
	if err != nil {
		return err
	}
	paths = append(paths, ours...)
	if err := sameMTU(ours[0].client); err != nil {
		return err
	}
	if host := os.Getenv("DOCKER_BENCH_HOST"); host != "" {
		theirs, drop, err := engineTraffic("docker", "docker", append(os.Environ(), "DOCKER_HOST="+host))
		defer drop()
		if err != nil {
			return err
		}
		paths = append(paths, theirs...)
	}
	controls, err := congestionControls()
	if err != nil {
		return err
	}
	for _, control := range controls {
		fmt.Printf("\n%-50s %9s %9s %9s   %s\n", "THROUGHPUT, Gbit/s, one TCP connection, "+control, "MIN", "MEDIAN", "MAX", "OF THE BARE PAIR")
		if err := series(paths, rounds, "%-50s %9.1f %9.1f %9.1f   %.2f\n", func(p path) (float64, error) { return throughput(p, control, 2*time.Second) }); err != nil {
			return err
		}
	}
	fmt.Printf("\n%-50s %9s %9s %9s   %s\n", "CONNECTIONS in a second, one after the other", "MIN", "MEDIAN", "MAX", "OF THE BARE PAIR")
	return series(paths, rounds, "%-50s %9.0f %9.0f %9.0f   %.2f\n", func(p path) (float64, error) { return connections(p, time.Second) })
}

// congestionControls are those to measure with: the kernel's own choice, which is
// bound by the processor, and the host's if it is another. BBR sends at the pace
// that it believes in, on a pair of veth too.
func congestionControls() ([]string, error) {
	const kernels = "cubic"
	read := func(name string) (string, error) {
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		return strings.TrimSpace(string(b)), err
	}
	hosts, err := read("tcp_congestion_control")
	available, err2 := read("tcp_available_congestion_control")
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	if hosts == kernels || !slices.Contains(strings.Fields(available), kernels) {
		return []string{hosts}, nil
	}
	return []string{kernels, hosts}, nil
}

func series(paths []path, rounds int, format string, measure func(path) (float64, error)) error {
	got := make([][]float64, len(paths))
	for range rounds {
		for i, p := range paths {
			v, err := measure(p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			got[i] = append(got[i], v)
		}
	}
	for i, p := range paths {
		slices.Sort(got[i])
		median := func(v []float64) float64 { return v[len(v)/2] }
		fmt.Printf(format, p.name, got[i][0], median(got[i]), got[i][len(got[i])-1], median(got[i])/median(got[0]))
	}
	return nil
}

// sameMTU gives the bare pair and the other machine the MTU of a container, which
// is that of the host's uplink.
func sameMTU(container string) error {
	var links []struct{ MTU int }
	out, err := inside(container, "ip", "-j", "link", "show", "eth0").Output()
	if err == nil {
		err = json.Unmarshal(out, &links)
	}
	if err != nil || len(links) != 1 {
		return fmt.Errorf("the MTU of a container: %s %w", out, err)
	}
	mtu := strconv.Itoa(links[0].MTU)
	fmt.Printf("\nMTU %s everywhere\n", mtu)
	return sh("ip link set hzb-host mtu " + mtu + " && for n in near far other; do ip -n hezi-bench-$n link set hzb-$n mtu " + mtu + " || exit 1; done")
}

// engineTraffic starts two containers on a network of an engine.
func engineTraffic(name, program string, env []string) (paths []path, drop func(), err error) {
	call := func(args ...string) (string, error) {
		cmd := exec.Command(program, args...)
		cmd.Env = env
		out, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), exit.Stderr)
		}
		return strings.TrimSpace(string(out)), err
	}
	drop = func() {
		_, _ = call("rm", "-f", "bench-server", "bench-client")
		_, _ = call("network", "rm", "bench-traffic")
	}
	ns := map[string]string{}
	for _, args := range [][]string{
		{"network", "create", "bench-traffic"},
		{"run", "-d", "--name", "bench-server", "--network", "bench-traffic", "-p", "5201", "busybox", "sleep", "100000"},
		{"run", "-d", "--name", "bench-client", "--network", "bench-traffic", "busybox", "sleep", "100000"},
	} {
		if _, err := call(args...); err != nil {
			return nil, drop, err
		}
		if args[0] != "run" {
			continue
		}
		pid, err := call("inspect", "-f", "{{.State.Pid}}", args[3])
		if err != nil {
			return nil, drop, err
		}
		ns[args[3]] = "/proc/" + pid + "/ns/net"
	}
	inspected, err := call("inspect", "-f", `{{with index .NetworkSettings.Networks "bench-traffic"}}{{.IPAddress}} {{.Gateway}}{{end}} {{(index (index .NetworkSettings.Ports "5201/tcp") 0).HostPort}}`, "bench-server")
	if err != nil {
		return nil, drop, err
	}
	f := strings.Fields(inspected)
	if len(f) != 3 {
		return nil, drop, fmt.Errorf("%s inspect says %q", name, inspected)
	}
	port, err := strconv.Atoi(f[2])
	if err != nil {
		return nil, drop, err
	}
	server, client := ns["bench-server"], ns["bench-client"]
	return []path{
		{name: name + ": container to container", client: client, server: server, address: f[0], serverPort: 5201, clientPort: 5201},
		{name: name + ": container to host", client: client, address: f[1], serverPort: 5202, clientPort: 5202},
		{name: name + ": published port, from the host", server: server, address: wireHost, serverPort: 5201, clientPort: port},
		{name: name + ": published port, from another machine", client: "/run/netns/hezi-bench-other", server: server, address: wireHost, serverPort: 5201, clientPort: port},
		{name: name + ": published port, from another container", client: client, server: server, address: wireHost, serverPort: 5201, clientPort: port},
	}, drop, nil
}

func inside(ns string, argv ...string) *exec.Cmd {
	if ns != "" {
		argv = append([]string{"nsenter", "--net=" + ns}, argv...)
	}
	return exec.Command(argv[0], argv[1:]...)
}

// throughput is what iperf3 receives, in Gbit/s.
func throughput(p path, control string, length time.Duration) (rate float64, err error) {
	server := inside(p.server, "iperf3", "-s", "-1", "-p", strconv.Itoa(p.serverPort))
	if err := server.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	var report struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	for range 50 { // until it listens; with -J, iperf3 ends with 0 also when it was refused
		report.Error = ""
		var out []byte
		out, err = inside(p.client, "iperf3", "-c", p.address, "-p", strconv.Itoa(p.clientPort), "-J", "-C", control, "-t", fmt.Sprint(length.Seconds())).Output()
		if err == nil {
			err = json.Unmarshal(out, &report)
		}
		if err == nil && report.Error != "" {
			err = errors.New(report.Error)
		}
		if err == nil {
			return report.End.Received.Rate / 1e9, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return 0, fmt.Errorf("iperf3: %w", err)
}

// within runs f on a thread in a network namespace.
func within(ns string, f func() error) error {
	if ns == "" {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		there, err := os.Open(ns)
		if err == nil {
			err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
			there.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// connections is how many a second a client makes, one after the other, each
// answered with a byte.
func connections(p path, length time.Duration) (rate float64, err error) {
	var l net.Listener
	err = within(p.server, func() error {
		l, err = net.Listen("tcp", ":"+strconv.Itoa(p.serverPort))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{1})
			c.Close()
		}
	}()
	n, began := 0, time.Now()
	err = within(p.client, func() error {
		for ; time.Since(began) < length; n++ {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(p.address, strconv.Itoa(p.clientPort)), 5*time.Second)
			if err != nil {
				return err
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				return err
			}
			// A reset leaves no connection that waits for its end.
			if err := c.(*net.TCPConn).SetLinger(0); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	return float64(n) / time.Since(began).Seconds(), err
}
