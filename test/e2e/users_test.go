package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hezi/test/harness"
)

// configured is an engine of its own with a daemon.json.
func configured(t *testing.T, text string) *harness.Engine {
	t.Helper()
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	e.Down()
	if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	return e
}

// fails runs hezi, which must fail with text.
func fails(t *testing.T, e *harness.Engine, text string, args ...string) {
	t.Helper()
	if r := e.Hezi(args...); r.Code == 0 || !strings.Contains(r.Err, text) {
		t.Errorf("%v: exit code %d, %q: want %q", args, r.Code, r.Err, text)
	}
}

// idOnHost is the first id that a running container has.
func idOnHost(t *testing.T, e *harness.Engine, name string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + e.Must(t, "inspect", "-f", "{{.State.Pid}}", name) + "/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))[1]
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid
}

// TestUsersAuto: each container has ids of its own, never another's, through
// the engine's end and its keeper's; files are on disk as they are inside.
func TestUsersAuto(t *testing.T) {
	e := configured(t, `{"userns-auto-range": "700000:196608"}`)
	e.Must(t, "run", "-d", "--name", "one", "--userns", "auto", "-p", "127.0.0.1::80", "busybox", "sh", "-c", "echo found >/tmp/x; exec httpd -f -h /tmp")
	e.Must(t, "run", "-d", "--name", "two", "--userns", "auto", "busybox", "sleep", "1000")
	e.Must(t, "create", "--name", "three", "--userns", "auto:size=65536", "busybox", "sleep", "1000")
	fails(t, e, "free ids are left", "run", "--rm", "--userns", "auto:size=1", "busybox", "true")
	if a, b := idOnHost(t, e, "one"), idOnHost(t, e, "two"); a != "700000" || b != "765536" {
		t.Errorf("the containers have %s and %s", a, b)
	}
	if out, err := exec.Command("curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "http://"+e.Must(t, "port", "one", "80")+"/x").Output(); err != nil || string(out) != "found\n" {
		t.Errorf("the published port: %q, %v", out, err)
	}
	e.Kill()
	keeper, holder := e.Keeper()
	for _, pid := range []int{holder, keeper} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	want := "uid_map 0 700000 65536"
	if got := e.Must(t, "exec", "one", "sh", "-c", "echo uid_map $(cat /proc/self/uid_map)"); got != want {
		t.Errorf("exec after the keeper's end: %q", got)
	}
	fails(t, e, "free ids are left", "run", "--rm", "--userns", "auto:size=1", "busybox", "true")
	e.Must(t, "restart", "-t", "0", "one")
	if got := idOnHost(t, e, "one"); got != "700000" {
		t.Errorf("after a restart the container has %s", got)
	}
	out, err := e.Docker("exec", "-u", "33", "one", "sh", "-c", "id -u; echo uid_map $(cat /proc/self/uid_map)").Output()
	if err != nil || string(out) != "33\n"+want+"\n" {
		t.Errorf("docker exec: %q, %v", out, err)
	}
	e.Must(t, "rm", "-f", "two")
	e.Must(t, "start", "three")
	if got := e.Must(t, "run", "--rm", "--userns", "auto", "busybox", "cat", "/proc/self/uid_map"); strings.Fields(got)[1] != "765536" {
		t.Errorf("what was given back is not given again: %s", got)
	}
	for _, c := range []struct {
		text string
		args []string
	}{
		{"privileged mode is incompatible with user namespaces", []string{"--privileged"}},
		{"cannot share the host's network namespace when user namespaces are enabled", []string{"--network", "host"}},
		{"cannot share the host PID namespace when user namespaces are enabled", []string{"--pid", "host"}},
		{"the user 70000 is not one of the ids", []string{"-u", "70000"}},
		{"the file system sysfs", []string{"-v", "/sys:/s"}},
	} {
		fails(t, e, c.text, append(append([]string{"run", "--rm", "--userns", "auto"}, c.args...), "busybox", "true")...)
	}
	if got := e.Must(t, "run", "--rm", "--userns", "auto:size=3", "--ipc", "host", "busybox", "sh", "-c", "id -u; ls /dev/shm >/dev/null && stat -c %g /dev/pts/ptmx"); got != "0\n0" {
		t.Errorf("three ids: %q", got)
	}
	e.Must(t, "rm", "-f", "one", "three")
}

// TestUsersJoin: a container is in the user namespace of the one that it joins.
func TestUsersJoin(t *testing.T) {
	e := configured(t, `{"userns": "auto", "userns-auto-range": "700000:131072", "default-ipc-mode": "shareable"}`)
	if got := e.Must(t, "info", "-f", "{{.SecurityOptions}}"); !strings.Contains(got, "name=userns") {
		t.Errorf("info says %s", got)
	}
	e.Must(t, "run", "-d", "--name", "one", "busybox", "sh", "-c", "echo text >/dev/shm/x; exec sleep 1000")
	e.Must(t, "run", "-d", "--name", "two", "--network", "container:one", "busybox", "sleep", "1000")
	e.Must(t, "run", "-d", "--name", "three", "--pid", "container:two", "--ipc", "container:one", "busybox", "sleep", "1000")
	pids := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		pids[name] = e.Must(t, "inspect", "-f", "{{.State.Pid}}", name)
	}
	same := func(ns, a, b string) bool {
		x, err := os.Readlink("/proc/" + pids[a] + "/ns/" + ns)
		y, err2 := os.Readlink("/proc/" + pids[b] + "/ns/" + ns)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return x == y
	}
	for _, c := range []struct {
		ns, a, b string
		want     bool
	}{{"user", "one", "two", true}, {"user", "one", "three", true}, {"net", "one", "two", true}, {"pid", "one", "two", false}, {"pid", "two", "three", true}, {"ipc", "one", "three", true}, {"net", "one", "three", false}} {
		if same(c.ns, c.a, c.b) != c.want {
			t.Errorf("%s and %s in one %s namespace: %v", c.a, c.b, c.ns, !c.want)
		}
	}
	if got := e.Must(t, "exec", "three", "sh", "-c", "cat /dev/shm/x; id -u; ip route | grep -c default"); got != "text\n0\n1" {
		t.Errorf("exec: %q", got)
	}
	e.Must(t, "run", "-d", "--name", "hosts", "--userns", "host", "busybox", "sleep", "1000")
	fails(t, e, "add --userns=host", "run", "--rm", "--pid", "container:hosts", "busybox", "true")
	fails(t, e, "different user namespaces", "run", "--rm", "--pid", "container:hosts", "--network", "container:one", "busybox", "true")
	if got := e.Must(t, "run", "--rm", "--userns", "host", "--pid", "container:one", "busybox", "sh", "-c", "cat /proc/self/uid_map"); !strings.Contains(got, "4294967295") {
		t.Errorf("with the host's users: %q", got)
	}
	e.Must(t, "rm", "-f", "three", "two", "one", "hosts")
}

// TestUsersStay: the ids of a container that is removed are nobody else's while
// others are in its user namespace, which those are that say nothing of users.
func TestUsersStay(t *testing.T) {
	e := configured(t, `{"userns-auto-range": "700000:131072"}`)
	e.Must(t, "run", "-d", "--name", "one", "--userns", "auto", "busybox", "sleep", "1000")
	if out, err := e.Docker("run", "-d", "--name", "guest", "--network", "container:one", "busybox", "sleep", "1000").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := idOnHost(t, e, "guest"); got != "700000" {
		t.Errorf("who joins has the users from %s on", got)
	}
	fails(t, e, "privileged mode is incompatible", "run", "--rm", "--privileged", "--pid", "container:one", "busybox", "true")
	e.Must(t, "run", "--rm", "--privileged", "--userns", "host", "--pid", "container:one", "busybox", "true")
	e.Must(t, "rm", "-f", "one")
	free := func() string {
		return strings.Fields(e.Must(t, "run", "--rm", "--userns", "auto", "busybox", "cat", "/proc/self/uid_map"))[1]
	}
	if got := free(); got != "765536" {
		t.Errorf("another has the guest's ids: %s", got)
	}
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if got := free(); got != "765536" {
		t.Errorf("another has the guest's ids, after a restart of the engine: %s", got)
	}
	e.Must(t, "rm", "-f", "guest")
	if got := free(); got != "700000" {
		t.Errorf("the ids are not given back: %s", got)
	}
}

// TestUsersRemap: as dockerd has it, with the user that it makes.
func TestUsersRemap(t *testing.T) {
	if exec.Command("id", "dockremap").Run() != nil {
		t.Cleanup(func() {
			if out, err := exec.Command("userdel", "dockremap").CombinedOutput(); err != nil {
				t.Errorf("userdel: %v, %s", err, out)
			}
		})
	}
	e := configured(t, `{"userns-remap": "default"}`)
	ranges, err := os.ReadFile("/etc/subuid")
	if err != nil {
		t.Fatal(err)
	}
	base := ""
	for line := range strings.Lines(string(ranges)) {
		if f := strings.Split(line, ":"); f[0] == "dockremap" {
			base = f[1]
		}
	}
	root, err := strconv.Atoi(base)
	if err != nil {
		t.Fatalf("dockremap has no ids in %q", ranges)
	}
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	theirs := filepath.Join(dir, "theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, root, root); err != nil {
		t.Fatal(err)
	}
	got := e.Must(t, "run", "--rm", "-v", dir+":/b", "-v", "vol:/v", "busybox", "sh", "-c", "cat /proc/self/uid_map; stat -c %u /b /b/theirs /v; touch /v/x /b/theirs/x; touch /b/x 2>&1; true")
	want := fmt.Sprintf("0 %d 65536 65534 0 0 touch: /b/x: Permission denied", root)
	if strings.Join(strings.Fields(got), " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	if uid, _ := owner(t, theirs+"/x"); int(uid) != root {
		t.Errorf("a bind is not as with Docker: user %d wrote", uid)
	}
	e.Must(t, "run", "--rm", "-u", "5:6", "-v", dir+":/b:U", "busybox", "touch", "/b/x")
	if uid, gid := owner(t, dir+"/x"); int(uid) != root+5 || int(gid) != root+6 {
		t.Errorf("a bind that is given to the user is %d's, %d's", uid, gid)
	}
	if got := e.Must(t, "run", "--rm", "--userns", "host", "-v", "vol:/v", "busybox", "sh", "-c", "stat -c %u /v/x; cat /proc/self/uid_map"); !strings.HasPrefix(got, "0\n") || !strings.Contains(got, "4294967295") {
		t.Errorf("with the host's users: %q", got)
	}
	if got := e.Must(t, "inspect", "-f", "{{.Options}}", "vol"); got == "" {
		t.Error("no volume")
	}
	fails(t, e, "privileged mode is incompatible", "run", "--rm", "--privileged", "busybox", "true")
	e.Must(t, "run", "--rm", "--privileged", "--userns", "host", "busybox", "true")
}

// TestOwners: match-user makes the source's owner the container's user and nobody
// else anyone; idmap has the container's ids on disk.
func TestOwners(t *testing.T) {
	e := configured(t, `{"userns-auto-range": "700000:131072"}`)
	dir := t.TempDir()
	hers, roots := filepath.Join(dir, "hers"), filepath.Join(dir, "roots")
	for _, d := range []string{hers, roots} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(hers, "secret"), []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, id := range map[string]int{hers: 1234, roots: 0} {
		if err := os.Chown(path, id, id); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range [][]string{{"-u", "33:33"}, {"-u", "33:33", "--userns", "auto"}, {"-u", "0"}, {"--userns", "auto"}} {
		name := fmt.Sprint("f", i)
		for j, bind := range [][]string{{"-v", hers + ":/h:match-user"}, {"--mount", "type=bind,src=" + hers + ",dst=/h,match-user"}} {
			file := fmt.Sprint(name, j)
			got := e.Must(t, append(append(append([]string{"run", "--rm"}, c...), bind...), "busybox", "sh", "-c", "touch /h/"+file+"; test $(id -u) = $(stat -c %u /h) && stat -c %u /h/secret; cat /h/secret 2>&1; chown 0 /h/secret 2>&1; chmod 4755 /h/"+file)...)
			if !strings.HasPrefix(got, "65534\ncat: can't open '/h/secret': Permission denied\nchown:") {
				t.Errorf("%v: %q", c, got)
			}
			if uid, gid := owner(t, filepath.Join(hers, file)); uid != 1234 || gid != 1234 {
				t.Errorf("%v: the file is %d's, %d's", c, uid, gid)
			}
		}
	}
	if uid, _ := owner(t, filepath.Join(hers, "secret")); uid != 0 {
		t.Errorf("root's file is %d's now", uid)
	}
	fails(t, e, "belongs to root", "run", "--rm", "-u", "33", "-v", roots+":/r:match-user", "busybox", "true")
	fails(t, e, "has no user namespace", "run", "--rm", "-v", roots+":/r:idmap", "busybox", "true")
	fails(t, e, "invalid mode", "run", "--rm", "-v", "vol:/r:idmap", "busybox", "true")
	fails(t, e, "invalid mode", "run", "--rm", "-v", roots+":/r:idmap,match-user", "busybox", "true")
	e.Must(t, "run", "--rm", "--userns", "auto", "-v", roots+":/r:idmap", "busybox", "sh", "-c", "touch /r/a; chown 7:8 /r/a")
	if uid, gid := owner(t, filepath.Join(roots, "a")); uid != 7 || gid != 8 {
		t.Errorf("idmap: the file is %d's, %d's", uid, gid)
	}
	e.Must(t, "run", "--rm", "--userns", "auto", "-u", "9:10", "-v", roots+":/r:U", "busybox", "touch", "/r/b")
	for _, name := range []string{"a", "b"} {
		if uid, gid := owner(t, filepath.Join(roots, name)); uid != 9 || gid != 10 {
			t.Errorf("U: the file %s is %d's, %d's", name, uid, gid)
		}
	}
	if out, err := e.Docker("run", "--rm", "-u", "33:33", "-v", hers+":/h:match-user", "busybox", "stat", "-c", "%u", "/h").Output(); err != nil || string(out) != "33\n" {
		t.Errorf("docker: %q, %v", out, err)
	}
}

// TestLiveMountOwners: what is mounted in a running container with users of its own has
// owners as it has them, and what it writes there is its own.
func TestLiveMountOwners(t *testing.T) {
	e := configured(t, `{"userns-auto-range": "1000000:1048576"}`)
	dir := t.TempDir()
	if err := os.Chown(dir, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "run", "-d", "--name", "live", "--userns=auto", "busybox", "sleep", "1000")
	e.Must(t, "update", "--mount-add", "type=volume,src=vol,dst=/v", "--mount-add", "type=tmpfs,dst=/made/t", "--mount-add", "type=bind,src="+dir+",dst=/h", "live")
	got := e.Must(t, "exec", "live", "sh", "-c", "echo u > /v/u && echo t > /made/t/t && stat -c %u:%g /v /v/u /made /made/t /made/t/t | sort -u")
	if strings.TrimSpace(got) != "0:0" {
		t.Errorf("owners inside: %q", got)
	}
	fails(t, e, "owners are mapped (idmap, match-user) only when the container starts", "update", "--mount-add", "type=bind,src="+dir+",dst=/o,match-user", "live")
	e.Must(t, "update", "--mount-rm", "/v", "--mount-rm", "/made/t", "live")
	if got := e.Must(t, "exec", "live", "sh", "-c", "ls -A /v /made/t | grep -v :; true"); strings.TrimSpace(got) != "" {
		t.Errorf("still mounted: %q", got)
	}
	e.Must(t, "rm", "-f", "live")
}
