package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hezi/test/harness"
)

// TestPublished: a TCP and a UDP port answer on the host's loopback, on its
// addresses, and from another container by the host's address.
func TestPublished(t *testing.T) {
	importDebian(t)
	echo := `use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 9999, Proto => "udp") or die; $s->send($m) while $s->recv($m, 100)`
	engine.Must(t, "run", "-d", "--name", "published", "-p", "8080", "-p", "9999/udp", "debian:test", "perl", "-e", echo)
	t.Cleanup(func() { engine.Must(t, "rm", "-f", "published") })
	engine.Must(t, "exec", "-d", "published", "perl", "-e",
		`use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5) or die; while ($c = $s->accept) { print $c "over tcp\n"; close $c }`)
	port := func(inside string) string {
		_, p, err := net.SplitHostPort(strings.Fields(engine.Must(t, "port", "published", inside))[0])
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	gateway := engine.Must(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
	for _, host := range []string{"127.0.0.1", "127.0.0.2", gateway} {
		eventually(t, "tcp on "+host, func() error {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(host, port("8080")), time.Second)
			if err != nil {
				return err
			}
			defer c.Close()
			return answers(c, "over tcp\n")
		})
		eventually(t, "udp on "+host, func() error {
			c, err := net.Dial("udp", net.JoinHostPort(host, port("9999/udp")))
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := io.WriteString(c, "over udp\n"); err != nil {
				return err
			}
			return answers(c, "over udp\n")
		})
	}
	if got := engine.Must(t, "run", "--rm", "busybox", "sh", "-c", "nc "+gateway+" "+port("8080")+" < /dev/null"); got != "over tcp" {
		t.Errorf("from a container by the host's address: %q", got)
	}
}

// TestRuns: a hundred runs on the default bridge and on a network of both
// families, with published ports, leave no link, mount, namespace, rule, address,
// route, cgroup, descriptor or folder behind. HEZI_TEST_RUNS=10000 makes them more.
func TestRuns(t *testing.T) {
	total := 100
	if v := os.Getenv("HEZI_TEST_RUNS"); v != "" {
		var err error
		if total, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	engine.Must(t, "network", "create", "--ipv6", "runs")
	t.Cleanup(func() { engine.Must(t, "network", "rm", "runs") })
	engine.Must(t, "network", "create", "runs-too")
	t.Cleanup(func() { engine.Must(t, "network", "rm", "runs-too") })
	host := func() string {
		out, err := exec.Command("sh", "-c", "ip -o addr show scope global | awk '{print $2, $4}'; { ip route; ip -6 route; } | sed 's/ linkdown//; s/ *$//'; ls /run/netns 2>/dev/null; exit 0").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	once := func(i int) {
		args := []string{"run", "--rm", "-p", "80", "-p", "127.0.0.1::81/udp", "-v", "/anonymous"}
		switch i % 3 {
		case 1:
			args = append(args, "--network", "runs", "--network-alias", "web")
		case 2:
			args = append(args, "--network", "runs", "--network", "runs-too")
		}
		if r := engine.Hezi(append(args, "busybox", "sh", "-c", "exit "+fmt.Sprint(i%2))...); r.Code != i%2 {
			t.Errorf("run %d: exit %d %s", i, r.Code, r.Err)
		}
	}
	many := func(n int) {
		var hands sync.WaitGroup
		for hand := range 3 {
			hands.Go(func() {
				for i := hand; i < n && !t.Failed(); i += 3 {
					once(i)
				}
			})
		}
		hands.Wait()
	}
	many(6) // what is made once is made
	before, addresses := engine.Count(), host()
	many(total)
	engine.NothingLeft(t, before, 4)
	bridges := []string{engine.Must(t, "network", "inspect", "-f", `{{index .Options "com.docker.network.bridge.name"}}`, "bridge")}
	for _, network := range []string{"runs", "runs-too"} {
		bridges = append(bridges, "hezi-"+engine.Must(t, "network", "inspect", "-f", `{{printf "%.10s" .Id}}`, network))
	}
	for _, line := range strings.Split(host(), "\n") {
		for _, b := range bridges {
			if !strings.Contains(addresses, line) && strings.Contains(line, b) {
				t.Errorf("left behind: %s", line)
			}
		}
	}
}

// TestWithoutBridge: --bridge none makes no default bridge and removes that of before, but not
// from under a container that runs on it; who names no network has none.
func TestWithoutBridge(t *testing.T) {
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	bridge := e.Must(t, "network", "inspect", "-f", `{{index .Options "com.docker.network.bridge.name"}}`, "bridge")
	gateway := e.Must(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
	there := func() bool { _, err := net.InterfaceByName(bridge); return err == nil }
	again := func(extra ...string) {
		t.Helper()
		e.Down()
		if err := e.Up(extra...); err != nil {
			t.Fatal(err)
		}
	}
	e.Must(t, "run", "-d", "--name", "stays", "-p", "8080", "busybox", "sh", "-c", "while :; do echo here | nc -l -p 8080; done")
	e.Must(t, "create", "--name", "asked", "busybox", "true")
	again("--bridge=none")
	at := e.Must(t, "port", "stays", "8080/tcp")
	eventually(t, "a container that ran on the bridge", func() error {
		c, err := net.DialTimeout("tcp", "127.0.0.1"+at[strings.LastIndexByte(strings.Fields(at)[0], ':'):len(strings.Fields(at)[0])], time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		return answers(c, "here\n")
	})
	e.Must(t, "exec", "stays", "ping", "-c", "1", "-W", "5", gateway)
	if got := e.Must(t, "network", "inspect", "-f", "{{len .Containers}}", "bridge"); got != "1" {
		t.Errorf("the bridge that one runs on has %s containers", got)
	}
	refused := func() {
		t.Helper()
		for _, args := range [][]string{{"run", "--rm", "--network", "bridge", "busybox", "true"}, {"start", "asked"}, {"network", "connect", "bridge", "plain"}} {
			if r := e.Hezi(args...); r.Code == 0 || !strings.Contains(r.Err, `"bridge": "none"`) {
				t.Errorf("%v: exit %d, %q", args, r.Code, r.Err)
			}
		}
	}
	e.Must(t, "network", "create", "own")
	e.Must(t, "run", "-d", "--name", "plain", "--network", "own", "busybox", "sleep", "1000")
	refused()
	e.Must(t, "rm", "-f", "stays")
	again("--bridge=none")
	if there() {
		t.Errorf("%s is there, and nobody in it", bridge)
	}
	refused()
	if got := e.Must(t, "run", "--rm", "-p", "8080", "busybox", "ls", "/sys/class/net"); got != "lo" {
		t.Errorf("a container without a network has %q", got)
	}
	if got := e.Must(t, "network", "ls", "--format", "{{.Name}}"); strings.Contains(got, "bridge") {
		t.Errorf("networks: %q", got)
	}
	if r := e.Hezi("run", "--rm", "--add-host", "h:host-gateway", "busybox", "true"); !strings.Contains(r.Err, "host-gateway") {
		t.Errorf("host-gateway without a bridge: %d %q", r.Code, r.Err)
	}
	again()
	if !there() {
		t.Errorf("%s does not come back", bridge)
	}
	e.Must(t, "start", "-a", "asked")
}

func answers(c net.Conn, want string) error {
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != want {
		return fmt.Errorf("it says %q", b)
	}
	return nil
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range 50 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: %v", what, err)
}

// importDebian gives the engine debian:test for the length of a test.
func importDebian(t *testing.T) {
	t.Helper()
	engine.Must(t, "import", "-c", "CMD bash", harness.Debian(t), "debian:test")
	t.Cleanup(func() { engine.Must(t, "rmi", "debian:test") })
}

// TestDebian runs a real distribution: symbolic links for /bin, users, setuid
// programs, many files; and a named volume gets what the image has.
func TestDebian(t *testing.T) {
	importDebian(t)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"12.", []string{"cat", "/etc/debian_version"}},
		{"uid=33(www-data) gid=33(www-data) groups=33(www-data)", []string{"-u", "www-data", "id"}},
		{"4755", []string{"stat", "-c", "%a", "/usr/bin/su"}},
		{"usr/bin", []string{"readlink", "/bin"}},
		{"/root", []string{"bash", "-c", "echo ~"}},
	} {
		args := []string{"run", "--rm"}
		if c.args[0] == "-u" {
			args, c.args = append(args, c.args[:2]...), c.args[2:]
		}
		if got := engine.Must(t, append(append(args, "debian:test"), c.args...)...); !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: %q, want %q", c.args, got, c.want)
		}
	}
	engine.Must(t, "run", "--rm", "-v", "debian-skel:/etc/skel", "debian:test", "test", "-e", "/etc/skel/.bashrc")
	if got := engine.Must(t, "run", "--rm", "-v", "debian-skel:/x", "busybox", "ls", "-A", "/x"); !strings.Contains(got, ".bashrc") {
		t.Errorf("the volume has %q, not what the image has there", got)
	}
	engine.Must(t, "volume", "rm", "debian-skel")
}
