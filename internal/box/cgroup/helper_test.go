package cgroup

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const helperVariable = "HEZI_CGROUP_HELPER"

// TestMain lets the test binary be the process in a cgroup too, so that the
// tests run where nothing else is installed (test/vm/cgroupv2.sh).
func TestMain(m *testing.M) {
	if mode := os.Getenv(helperVariable); mode != "" {
		if mode != "end" {
			helper(mode)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func helper(mode string) {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil { // until it was put into its cgroup
		os.Exit(9)
	}
	switch mode {
	case "nothing": // but, unlike "end", when it is let go
	case "named":
		if err := os.WriteFile("/proc/self/comm", []byte("a) Z 1 1"), 0); err != nil {
			os.Exit(8)
		}
		fmt.Println("ready")
		time.Sleep(time.Minute)
	case "sleep":
		fmt.Println("ready")
		time.Sleep(time.Minute)
	case "count":
		for i := 0; ; i++ {
			fmt.Println(i)
			time.Sleep(time.Millisecond)
		}
	case "births":
		fmt.Println("ready")
		for {
			if _, err := in.ReadString('\n'); err != nil {
				return
			}
			took, err := birth()
			if err != nil {
				os.Exit(8)
			}
			fmt.Println(took)
		}
	case "fork": // each starts another and ends, until one cannot
		if cmd := again("fork"); cmd.Start() != nil {
			os.Exit(1)
		}
		fmt.Println("forked")
	case "memory":
		for size := 0; size < 256<<20; size += 1 << 20 {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			keep = append(keep, block)
		}
		fmt.Println("survived")
	case "pids":
		for i := range 50 {
			if err := again("sleep").Start(); err != nil {
				fmt.Println(i, errors.Is(err, unix.EAGAIN))
				return
			}
		}
		fmt.Println("no limit")
	case "device":
		for _, d := range []DeviceRule{{"c", 1, 3, ""}, {"c", 1, 1, ""}, {"b", 8, 0, ""}} {
			fmt.Printf("%s ", try(d))
		}
		fmt.Println()
	}
}

var keep [][]byte

// again is the same program once more, let go at once.
func again(mode string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperVariable + "=" + mode}
	if r, w, err := os.Pipe(); err == nil { // a file, so that nothing here must stay for it
		_, _ = w.WriteString("\n")
		w.Close()
		cmd.Stdin = r
	}
	cmd.Stdout = os.Stdout
	return cmd
}

// try makes a device node and opens it: "open", or what was refused.
func try(d DeviceRule) string {
	dir, err := os.MkdirTemp("", "hezi-device-")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	path, mode := filepath.Join(dir, "node"), uint32(unix.S_IFCHR|0o600)
	if d.Type == "b" {
		mode = unix.S_IFBLK | 0o600
	}
	if err := unix.Mknod(path, mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
		return "mknod:" + err.Error()
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch err {
	case nil:
		unix.Close(fd)
		return "open"
	case unix.ENXIO, unix.ENODEV: // allowed, but there is no such device
		return "open"
	case unix.EPERM:
		return "refused"
	}
	return err.Error()
}

// process is a helper that waits for go.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func spawn(t *testing.T, mode string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperVariable + "=" + mode, "GOMAXPROCS=1", "TMPDIR=" + os.TempDir()}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &process{cmd, in, bufio.NewReader(out)}
}

// start lets it go and gives its first line.
func (p *process) start(t *testing.T) string {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSpace(line)
}

// drivers gives the host's driver, and on a hybrid host one for the v2
// hierarchy too, which has no controllers there but all of the rest.
func drivers(t *testing.T) map[string]*Driver {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes cgroups: run it as root")
	}
	d, err := New("test-" + strings.ToLower(rand.Text())[:8])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*Driver{fmt.Sprintf("v%d", d.Version): d}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if _, v2 := parse(string(text)); d.Version == 1 && len(v2) > 0 {
		out["hybrid v2"] = &Driver{Version: 2, identity: d.identity, hierarchies: v2[:1], ready: map[string]struct{}{}}
	}
	for name, d := range out {
		t.Cleanup(func() {
			if err := d.RemoveParent(d.Parent()); err != nil {
				t.Errorf("%s: left behind: %v", name, err)
			}
			for _, h := range d.hierarchies {
				if _, err := os.Stat(filepath.Join(h.dir, d.Parent())); err == nil {
					t.Errorf("%s: %s was left in %s", name, d.Parent(), h.dir)
				}
			}
		})
	}
	return out
}

// each runs a test on every driver. limits: it needs controllers.
func each(t *testing.T, limits bool, test func(*testing.T, *Driver)) {
	all := drivers(t)
	for name, d := range all {
		if limits && name == "hybrid v2" {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, d) })
	}
}

func create(t *testing.T, d *Driver, r Resources, dev Devices) *Group {
	t.Helper()
	g, err := d.Create(t.Context(), "", strings.ToLower(rand.Text()), r, dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		for _, dir := range g.dirs() {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s was left", dir)
			}
		}
	})
	return g
}

// inside spawns a helper in a group.
func inside(t *testing.T, g *Group, mode string) *process {
	t.Helper()
	p := spawn(t, mode)
	if err := g.Add(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return p
}
