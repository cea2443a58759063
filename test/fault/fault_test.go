// Package fault kills parts of the engine under running containers and asks
// that no container, log line, terminal or exit code is lost.
package fault

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// counting prints a numbered line every few milliseconds and ends with code 9.
const counting = `i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); usleep 5000; done; exit 9`

func start(t *testing.T) *harness.Engine {
	t.Helper()
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	return e
}

// complete asks that every line of counting is there exactly once, in order.
func complete(t *testing.T, what, out string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i, line := range lines {
		if line != "line "+strconv.Itoa(i) {
			t.Fatalf("%s: line %d is %q", what, i, line)
		}
	}
	if len(lines) != 400 {
		t.Fatalf("%s: %d lines, not 400", what, len(lines))
	}
}

// follow starts a client whose output is collected until it ends.
func follow(t *testing.T, cmd *exec.Cmd) (wait func() (string, error)) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	done := make(chan struct{})
	first := make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		b.WriteString(line)
		close(first)
		_, _ = io.Copy(&b, r)
	}()
	select {
	case <-first:
	case <-time.After(20 * time.Second):
		t.Fatal("no output in 20 s")
	}
	return func() (string, error) {
		select {
		case <-done:
		case <-time.After(60 * time.Second):
			_ = cmd.Process.Kill()
			return b.String(), fmt.Errorf("%s did not end", strings.Join(cmd.Args, " "))
		}
		return b.String(), cmd.Wait()
	}
}

func exitCode(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// TestKill kills hezid, the keeper, and both, while one container's output
// flows to its log and to attached clients.
func TestKill(t *testing.T) {
	for _, c := range []struct {
		name           string
		hezid, keeper  bool
		clientsSurvive bool
	}{
		{name: "hezid", hezid: true, clientsSurvive: true},
		{name: "keeper", keeper: true},
		{name: "both", hezid: true, keeper: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := start(t)
			attached := follow(t, e.Command("run", "--name", "box", "busybox", "sh", "-c", counting))
			followed := follow(t, e.Command("logs", "-f", "box"))
			_, holder := e.Keeper()
			keeper, _ := e.Keeper()
			if keeper == 0 || holder == 0 {
				t.Fatalf("keeper %d, holder %d", keeper, holder)
			}
			if c.hezid {
				e.Kill()
			}
			if c.keeper {
				if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(300 * time.Millisecond)
			if c.hezid {
				if err := e.Up(); err != nil {
					t.Fatal(err)
				}
			}
			if got := e.Must(t, "wait", "box"); got != "9" {
				t.Errorf("exit code %s, not 9", got)
			}
			if got := e.Must(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box"); got != "exited 9" {
				t.Errorf("inspect: %s", got)
			}
			complete(t, "the log", e.Must(t, "logs", "box"))
			out, err := attached()
			if c.clientsSurvive {
				complete(t, "the attached client", out)
				if code := exitCode(err); code != 9 {
					t.Errorf("run ended with %d, not 9", code)
				}
			}
			out, err = followed()
			if c.clientsSurvive {
				complete(t, "logs -f", out)
				if err != nil {
					t.Errorf("logs -f: %v", err)
				}
			}
			e.Must(t, "rm", "box")
		})
	}
}

// TestExitWhileAway: a container that ends while hezid, or hezid and the
// keeper, are dead has its exit code known.
func TestExitWhileAway(t *testing.T) {
	for _, keeperToo := range []bool{false, true} {
		t.Run(fmt.Sprintf("keeper=%v", keeperToo), func(t *testing.T) {
			e := start(t)
			e.Must(t, "run", "-d", "--name", "box", "busybox", "sh", "-c", "echo begun; sleep 1; echo ended; exit 42")
			e.Must(t, "run", "-d", "--rm", "--name", "rm", "busybox", "sleep", "1")
			keeper, _ := e.Keeper()
			e.Kill()
			if keeperToo {
				_ = syscall.Kill(keeper, syscall.SIGKILL)
			}
			time.Sleep(1500 * time.Millisecond)
			if err := e.Up(); err != nil {
				t.Fatal(err)
			}
			if got := e.Must(t, "wait", "box"); got != "42" {
				t.Errorf("exit code %s, not 42", got)
			}
			if got := e.Must(t, "logs", "box"); got != "begun\nended" {
				t.Errorf("log: %q", got)
			}
			if r := e.Hezi("inspect", "rm"); r.Code == 0 {
				t.Error("a --rm container that ended while hezid was away is still there")
			}
			e.Must(t, "rm", "box")
		})
	}
}

// TestRestartKeepsNetwork: a published port answers while hezid is away and
// after it is back, and is free after the container is removed.
func TestRestartKeepsNetwork(t *testing.T) {
	e := start(t)
	e.Must(t, "run", "--rm", "hezi/hello") // makes the parent of all containers' cgroups
	before := e.Count()
	e.Must(t, "run", "-d", "--name", "web", "-p", "127.0.0.1::8080", "hezi/hello", "serve")
	addr := e.Must(t, "port", "web", "8080")
	get := func(when string) {
		t.Helper()
		for range 50 {
			if exec.Command("curl", "-sf", "-m", "2", "http://"+addr+"/healthz").Run() == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("%s: http://%s/ does not answer", when, addr)
	}
	get("at first")
	e.Kill()
	get("while hezid is away")
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	get("after hezid is back")
	e.Must(t, "restart", "web")
	if again := e.Must(t, "port", "web", "8080"); again != addr {
		addr = again
	}
	get("after the container's restart")
	e.Must(t, "rm", "-f", "web")
	e.NothingLeft(t, before, 4)
}

// TestNetworksOverKill: containers keep their places in networks that users made
// while hezid is killed, and the next one goes on with them. A network that was
// made is there after a kill, also when nothing uses it.
func TestNetworksOverKill(t *testing.T) {
	e := start(t)
	e.Must(t, "network", "create", "--subnet", "10.213.1.0/24", "one")
	e.Must(t, "network", "create", "--ipv6", "two")
	e.Must(t, "run", "-d", "--name", "web", "--network", "one", "--network", "two", "-p", "127.0.0.1::80", "busybox", "sh", "-c",
		"mkdir /www; echo served > /www/index.html; exec busybox httpd -f -h /www")
	e.Must(t, "run", "-d", "--name", "peer", "--network", "two", "busybox", "sleep", "1000")
	const places = "{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{$e.IPAddress}} {{$e.GlobalIPv6Address}} {{$e.MacAddress}}\n{{end}}"
	before := e.Must(t, "inspect", "-f", places, "web", "peer")
	members := e.Must(t, "network", "inspect", "-f", "{{len .Containers}} {{.Id}}", "one", "two")
	port := e.Must(t, "port", "web", "80")
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if after := e.Must(t, "inspect", "-f", places, "web", "peer"); after != before {
		t.Errorf("after the kill:\n%s\nbefore:\n%s", after, before)
	}
	if after := e.Must(t, "network", "inspect", "-f", "{{len .Containers}} {{.Id}}", "one", "two"); after != members {
		t.Errorf("after the kill %s, before %s", after, members)
	}
	if out, err := exec.Command("curl", "-sS", "--max-time", "10", port).CombinedOutput(); err != nil || string(out) != "served\n" {
		t.Errorf("the published port: %v %s", err, out)
	}
	address := e.Must(t, "inspect", "-f", "{{.NetworkSettings.Networks.two.GlobalIPv6Address}}", "web")
	e.Must(t, "exec", "peer", "ping", "-6", "-c", "1", "-W", "5", address)
	if r := e.Hezi("network", "rm", "two"); r.Code != 1 || !strings.Contains(r.Err, "active endpoints") {
		t.Errorf("network rm: %d %s", r.Code, r.Err)
	}

	// What was there before the kill can be changed after it.
	e.Must(t, "network", "connect", "one", "peer")
	e.Must(t, "network", "disconnect", "two", "web")
	e.Must(t, "exec", "peer", "ping", "-c", "1", "-W", "5", e.Must(t, "inspect", "-f", "{{.NetworkSettings.Networks.one.IPAddress}}", "web"))
	if out, err := exec.Command("curl", "-sS", "--max-time", "10", port).CombinedOutput(); err != nil || string(out) != "served\n" {
		t.Errorf("the published port after the disconnection: %v %s", err, out)
	}
	for range 3 {
		e.Must(t, "run", "--rm", "--network", "one", "busybox", "true")
	}
	e.Must(t, "rm", "-f", "web", "peer")
	e.Must(t, "network", "rm", "one", "two")
}

// TestPublishedLaterOverKill: ports that were published while the container ran stay
// taken while hezid is away, and are known again afterwards.
func TestPublishedLaterOverKill(t *testing.T) {
	e := start(t)
	e.Must(t, "run", "-d", "--name", "web", "-p", "127.0.0.1::8080", "hezi/hello", "serve")
	e.Must(t, "update", "--publish-add", "127.0.0.1::8081", "--publish-add", "127.0.0.1::8080", "web")
	before := e.Must(t, "port", "web")
	taken := func(when string) {
		t.Helper()
		for _, line := range strings.Split(before, "\n") {
			_, addr, _ := strings.Cut(line, " -> ")
			if l, err := net.Listen("tcp", addr); err == nil {
				l.Close()
				t.Errorf("%s: %s could be taken", when, addr)
			}
		}
	}
	taken("at first")
	e.Kill()
	taken("while hezid is away")
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if after := e.Must(t, "port", "web"); after != before {
		t.Errorf("after the kill:\n%s\nbefore:\n%s", after, before)
	}
	keeper, _ := e.Keeper()
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	taken("after the keeper was killed")
	e.Must(t, "update", "--publish-rm", "8081", "web")
	for _, line := range strings.Split(before, "\n") {
		port, addr, _ := strings.Cut(line, " -> ")
		l, err := net.Listen("tcp", addr)
		if err == nil {
			l.Close()
		}
		if free := err == nil; free != strings.HasPrefix(port, "8081") {
			t.Errorf("%s after 8081 was taken away: %v", line, err)
		}
	}
}

// TestRestartPolicyAfterKill: a container with a policy that ended while
// hezid was away runs again.
func TestRestartPolicyAfterKill(t *testing.T) {
	e := start(t)
	e.Must(t, "run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "1")
	e.Kill()
	time.Sleep(1500 * time.Millisecond)
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if e.Must(t, "inspect", "-f", "{{.State.Running}}", "always") == "true" {
			e.Must(t, "rm", "-f", "always")
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the container was not started again")
}

// TestTerminalSurvivesRestart: an attached terminal goes on while hezid is
// killed and started.
func TestTerminalSurvivesRestart(t *testing.T) {
	e := start(t)
	e.Must(t, "run", "-d", "-i", "-t", "--name", "term", "busybox", "sh")
	s := harness.Terminal(t, e.Command("attach", "term"))
	s.Type(t, "echo one-$((1+1))\n")
	s.Expect(t, "one-2")
	e.Kill()
	s.Type(t, "echo two-$((1+2))\n")
	s.Expect(t, "two-3")
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	s.Type(t, "echo three-$((1+3))\n")
	s.Expect(t, "three-4")
	s.Type(t, "\x10\x11")             // ctrl-p ctrl-q leaves it running
	if code := s.Wait(t); code != 1 { // as Docker's attach ends
		t.Errorf("attach ended with %d after the detach keys", code)
	}
	if got := e.Must(t, "inspect", "-f", "{{.State.Running}}", "term"); got != "true" {
		t.Errorf("running: %s", got)
	}
	e.Must(t, "rm", "-f", "term")
}

// typed types until the answer comes: keys that a killed keeper had not read yet
// are lost with it.
func typed(t *testing.T, s *harness.Session, keys, answer string) {
	t.Helper()
	for range 12 {
		s.Type(t, keys)
		if s.Shows(answer, 5*time.Second) {
			return
		}
	}
	t.Fatalf("the terminal never shows %q", answer)
}

// TestTerminalSurvivesKeeper kills the keeper, and then keeper and hezid, under
// a terminal: the client joins it again, and gets its exit code.
func TestTerminalSurvivesKeeper(t *testing.T) {
	e := start(t)
	s := harness.Terminal(t, e.Command("run", "--rm", "-it", "busybox", "sh"))
	s.Type(t, "echo first-$((1+1))\n")
	s.Expect(t, "first-2")
	keeper, _ := e.Keeper()
	killed(t, keeper)
	typed(t, s, "echo second-$((2+2))\n", "second-4")
	keeper, _ = e.Keeper()
	e.Kill()
	killed(t, keeper)
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	typed(t, s, "echo third-$((3+3))\n", "third-6")
	s.Type(t, "exit 9\n")
	if code := s.Wait(t); code != 9 {
		t.Errorf("hezi run ended with %d, not 9", code)
	}
}

// TestMany: forty containers at once, then hezid killed, then all removed:
// nothing is left.
func TestMany(t *testing.T) {
	e := start(t)
	e.Must(t, "run", "--rm", "busybox", "true")
	before := e.Count()
	for i := range 40 {
		e.Must(t, "run", "-d", "--name", fmt.Sprintf("many%d", i), "busybox", "sleep", "1000")
	}
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	ids := strings.Fields(e.Must(t, "ps", "-q"))
	if len(ids) != 40 {
		t.Errorf("%d containers run, not 40", len(ids))
	}
	e.Must(t, append([]string{"rm", "-f"}, ids...)...)
	e.NothingLeft(t, before, 4)
}

// TestLinksOverKill: a link in /etc/hosts does not outlive its container that ended while
// hezid, or the whole engine, was away: it would be believed before the name service.
func TestLinksOverKill(t *testing.T) {
	for _, keeperToo := range []bool{false, true} {
		t.Run(fmt.Sprintf("keeper=%v", keeperToo), func(t *testing.T) {
			e := start(t)
			must := func(args ...string) string { t.Helper(); return e.Must(t, args...) }
			must("run", "-d", "--name", "linked-to", "busybox", "sleep", "1000")
			must("run", "-d", "--name", "linking", "--link", "linked-to:other", "busybox", "sleep", "1000")
			hosts := func(linked bool) {
				t.Helper()
				text := ""
				for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
					if text = must("exec", "linking", "cat", "/etc/hosts"); strings.Contains(text, "\tother ") == linked {
						return
					}
				}
				t.Fatalf("linked is not %v: %s", linked, text)
			}
			hosts(true)
			pid, err := strconv.Atoi(must("inspect", "-f", "{{.State.Pid}}", "linked-to"))
			if err != nil {
				t.Fatal(err)
			}
			keeper, holder := e.Keeper()
			e.Kill()
			if keeperToo {
				killed(t, keeper, holder)
			}
			killed(t, pid)
			if err := e.Up(); err != nil {
				t.Fatal(err)
			}
			hosts(false)
			must("start", "linked-to")
			hosts(true)
			must("rm", "-f", "linking", "linked-to")
		})
	}
}
