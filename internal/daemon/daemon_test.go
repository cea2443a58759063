package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hezi/internal/daemon/config"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestIdentity(t *testing.T) {
	if got := identity("/var/lib/hezi/", "/run/hezi"); got != "" {
		t.Errorf("the default roots have the identity %q", got)
	}
	a, b := identity("/a", "/b"), identity("/a", "/c")
	if a == b || len(a) != 8 || a != identity("/a/", "/b/") {
		t.Errorf("%q %q", a, b)
	}
}

// The kernel ends the lock with its descriptor, so a stale pid file is no
// obstacle and a running engine is named.
func TestOneInstance(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "x", "hezi.pid")
	first, err := claim(dir, pid)
	if err != nil {
		t.Fatal(err)
	}
	_, err = claim(dir, pid)
	if err == nil || !strings.Contains(err.Error(), "another hezid (process ") || !strings.Contains(err.Error(), "--exec-root") {
		t.Errorf("second start: %v", err)
	}
	if err := first.release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pid); !os.IsNotExist(err) {
		t.Errorf("the pid file stays: %v", err)
	}
	again, err := claim(dir, pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.release(); err != nil {
		t.Error(err)
	}
}

// Requests are served a moment before the start is through: a SIGHUP sent by
// then counts.
func TestReloadWhileStarting(t *testing.T) {
	file := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(file, []byte(`{"labels": ["a=1"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--config-file", file}
	c, err := config.Load(args)
	if err != nil {
		t.Fatal(err)
	}
	d := newDaemon(c, args, io.Discard)
	signals, started := make(chan os.Signal), make(chan opened)
	reloaded := make(chan []string, 2)
	go func() {
		signals <- syscall.SIGHUP
		started <- opened{rooms: &rooms{onReload: []func(*config.Config){func(c *config.Config) { reloaded <- c.Labels }}}}
		signals <- syscall.SIGTERM
	}()
	if err := os.WriteFile(file, []byte(`{"labels": ["a=2"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if begun, err := d.wait(signals, started, nil); !begun || err != nil {
		t.Fatalf("begun %v, %v", begun, err)
	}
	if len(reloaded) != 1 {
		t.Fatalf("%d reloads, not one", len(reloaded))
	}
	if labels := <-reloaded; len(labels) != 1 || labels[0] != "a=2" {
		t.Errorf("labels %q", labels)
	}
}

// A pid file is overwritten unless its process is a hezid that lives.
func TestPIDFileOfAnother(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	like := filepath.Join(dir, filepath.Base(self)) // a process that looks like another one of us
	if err := os.WriteFile(like, program, 0o755); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(dir, "hezi.pid")
	for name, path := range map[string]string{"hezid": like, "": "/bin/sleep"} {
		other := exec.Command(path, "60")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(pidFile, fmt.Appendln(nil, other.Process.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := claim(dir, pidFile)
		if name == "" {
			if err != nil {
				t.Errorf("the file of a process that is no engine: %v", err)
			}
		} else if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", other.Process.Pid)) {
			t.Errorf("the file of an engine: %v", err)
		}
		if got != nil {
			if err := got.release(); err != nil {
				t.Error(err)
			}
		}
		_ = other.Process.Kill()
		_ = other.Wait()
	}
}

func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s", "hezi.sock")
	l, err := listenUnix(path, "no-such-group", quiet())
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", st, err)
	}
	if _, err := listenUnix(path, "", quiet()); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("a second listener: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err = listenUnix(path, "", quiet())
	if err != nil {
		t.Fatalf("a socket that nobody serves is in the way: %v", err)
	}
	l.Close()
}

func TestListenFailsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	c := &config.Config{Hosts: []string{"unix://" + path, "fd://"}}
	if _, err := listen(context.Background(), c, quiet()); err == nil || !strings.Contains(err.Error(), "socket unit") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the first socket stays open: %v", err)
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if !strings.HasPrefix(reloading(), "RELOADING=1\nMONOTONIC_USEC=") {
		t.Error(reloading())
	}
}
