package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tmpfsAt mounts a tmpfs on the host for the length of a test.
func tmpfsAt(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestRecursive: read-only holds for the mounts below a bind too, unless that
// is not asked for; without recursion they are not there.
func TestRecursive(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	tmpfsAt(t, src)
	tmpfsAt(t, src+"/below")
	if err := os.WriteFile(src+"/below/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	try := func(args ...string) string {
		args = append(append([]string{"run", "--rm"}, args...), "busybox", "sh", "-c",
			"ls /x/below; touch /x/a 2>/dev/null && echo top; touch /x/below/a 2>/dev/null && echo below; rm -f /x/a /x/below/a")
		return strings.Join(strings.Fields(engine.Must(t, args...)), " ")
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"f top below", []string{"-v", src + ":/x"}},
		{"f", []string{"-v", src + ":/x:ro"}},
		{"f", []string{"--mount", "type=bind,src=" + src + ",dst=/x,readonly"}},
		{"f below", []string{"--mount", "type=bind,src=" + src + ",dst=/x,readonly,bind-recursive=writable"}},
		{"f", []string{"--mount", "type=bind,src=" + src + ",dst=/x,readonly,bind-recursive=readonly,bind-propagation=rprivate"}},
		{"top below", []string{"--mount", "type=bind,src=" + src + ",dst=/x,bind-recursive=disabled"}},
	} {
		if got := try(c.args...); got != c.want {
			t.Errorf("%v: %q, want %q", c.args, got, c.want)
		}
	}
	// What clients of before 1.44 ask for is read-only at its top.
	older := engine.Docker("run", "--rm", "-v", src+":/x:ro", "busybox", "sh", "-c", "touch /x/a 2>/dev/null && echo top; touch /x/below/a && echo below; rm /x/below/a")
	older.Env = append(older.Environ(), "DOCKER_API_VERSION=1.43")
	if out, err := older.CombinedOutput(); err != nil || string(out) != "below\n" {
		t.Errorf("by API version 1.43: %q, %v", out, err)
	}
	for _, args := range [][]string{
		{"--mount", "type=bind,src=" + src + ",dst=/x,bind-recursive=readonly"},
		{"--mount", "type=bind,src=" + src + ",dst=/x,bind-propagation=what"},
	} {
		if r := engine.Hezi(append(append([]string{"run", "--rm"}, args...), "busybox", "true")...); r.Code != 125 {
			t.Errorf("%v: exit %d, %s", args, r.Code, r.Err)
		}
	}
}

// TestPropagation: mounts made on either side reach the other as asked.
func TestPropagation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shared")
	tmpfsAt(t, dir)
	if err := os.Mkdir(dir+"/host", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/box", 0o755); err != nil {
		t.Fatal(err)
	}
	mode := func(flag uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", flag, ""); err != nil {
			t.Fatal(err)
		}
	}
	mode(unix.MS_PRIVATE)
	for _, how := range []string{"shared", "rslave"} {
		r := engine.Hezi("run", "--rm", "-v", dir+":/x:"+how, "busybox", "true")
		if r.Code != 125 || !strings.Contains(r.Err, "path "+dir+" is mounted on "+dir+" but it is not a shared") {
			t.Errorf("%s of a private mount: exit %d, %s", how, r.Code, r.Err)
		}
	}
	mode(unix.MS_SHARED)
	for _, c := range []struct {
		how               string
		fromHost, fromBox bool
	}{{"rprivate", false, false}, {"rslave", true, false}, {"rshared", true, true}, {"slave", true, false}, {"shared", true, true}} {
		name := "propagation-" + c.how
		engine.Must(t, "run", "-d", "--name", name, "--privileged", "-v", dir+":/x:"+c.how, "busybox", "top")
		if err := unix.Mount("tmpfs", dir+"/host", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		inBox := strings.Contains(engine.Must(t, "exec", name, "cat", "/proc/mounts"), " /x/host ")
		engine.Must(t, "exec", name, "mount", "-t", "tmpfs", "made-inside", "/x/box")
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		onHost := strings.Contains(string(mounts), "made-inside "+dir+"/box ")
		if inBox != c.fromHost || onHost != c.fromBox {
			t.Errorf("%s: the host's is seen inside: %t, the container's is seen on the host: %t", c.how, inBox, onHost)
		}
		engine.Must(t, "exec", name, "umount", "/x/box")
		engine.Must(t, "rm", "-f", name)
		if err := unix.Unmount(dir+"/host", unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
}
