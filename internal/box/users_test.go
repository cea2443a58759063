package box

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const base = 300000

// mappedSpec is a box in a user namespace, with the writable layer laid out as
// the engine does it.
func mappedSpec(t testing.TB, lower string, args ...string) *Spec {
	t.Helper()
	s := boxSpec(t, lower, args...)
	s.Users = &Users{UIDs: []IDMap{{0, base, 65536}}, GIDs: []IDMap{{0, base, 65536}}}
	return s
}

// TestMappedBox: all namespaces are the box's own, files have the owners that
// they have on disk, and what is written is on disk as it is seen inside.
func TestMappedBox(t *testing.T) {
	root := image(t)
	write(t, root+"/etc/hers", "x", 0o640)
	if err := os.Chown(root+"/etc/hers", 1000, 29); err != nil {
		t.Fatal(err)
	}
	spec := mappedSpec(t, root, "sh", "-c", `set -e
cat /proc/self/uid_map; id; stat -c %u:%g:%a /etc/hers /etc /proc/1 /dev/null /dev/pts /dev/shm
echo new >/etc/new; echo more >>/etc/hers; rm /etc/group; mkdir /a /a/b; ln /etc/new /a/b/c
echo x >/dev/null; ls /proc/sys /sys >/dev/null; echo y >/dev/stdout`)
	spec.Hostname = "mapped"
	out, code := run(t, spec)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	want := []string{fmt.Sprintf("0 %d 65536", base), "uid=0(root) gid=0(root) groups=0(root),10(wheel)", "1000:29:640", "0:0:755", "0:0:555", "0:0:666", "0:0:755", "0:0:1777", "y"}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	lines[0] = strings.Join(strings.Fields(lines[0]), " ")
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", lines, want)
	}
	upper := spec.Root.Overlay.Upper
	var st unix.Stat_t
	for name, uid := range map[string]uint32{"/etc/new": 0, "/etc/hers": 1000, "/a/b": 0, "/etc/group": 0} {
		if err := unix.Lstat(upper+name, &st); err != nil || st.Uid != uid {
			t.Errorf("%s on disk: %v, user %d", name, err, st.Uid)
		}
	}
}

// TestMappedExec: another process has the same ids, rights and namespaces.
func TestMappedExec(t *testing.T) {
	root := image(t)
	spec := mappedSpec(t, root, "sleep", "100")
	box := start(t, spec)
	p := spec.Process
	p.Args = []string{"sh", "-c", "cat /proc/self/uid_map; id; for n in user pid net ipc uts mnt; do test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n differs; done; echo z >/dev/stderr; grep -E 'CapEff|CapBnd' /proc/self/status"}
	p.Rlimits = []Rlimit{{"RLIMIT_NOFILE", 1000, 1000}}
	score := 7
	p.OOMScoreAdj = &score
	out, code := execIn(t, box, &p)
	if code != 0 || !strings.Contains(out, fmt.Sprint(base)) || strings.Contains(out, "differs") || !strings.Contains(out, "\nz\n") ||
		!strings.Contains(out, "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n") || !strings.Contains(out, "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n") {
		t.Errorf("exit code %d, %q", code, out)
	}
	p.Args, p.User, p.AdditionalGroups = []string{"sh", "-c", "id; ulimit -n; cat /proc/self/oom_score_adj; touch /tmp/x; stat -c %u /proc/self/fd/1"}, "ann", []string{"audio"}
	if out, code := execIn(t, box, &p); code != 0 && !strings.Contains(out, "Permission denied") || !strings.HasPrefix(out, "uid=1000(ann) gid=1000(ann) groups=10(wheel),29(audio),1000(ann)\n1000\n7\n") {
		t.Errorf("exit code %d, %q", code, out)
	}
	p.User = "70000"
	if _, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{}); err == nil || !strings.Contains(err.Error(), "not one of the ids") {
		t.Error(err)
	}
	host := filepath.Join("/proc", fmt.Sprint(box.PID))
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil || st.Uid != base {
		t.Errorf("%v: on the host the first process is user %d's", err, st.Uid)
	}
}

// TestPreparedIsGone: a start whose prepared init has died, or is another
// keeper's, says that it was that, and leaves nothing.
func TestPreparedIsGone(t *testing.T) {
	spec := mappedSpec(t, image(t), "true")
	pid, err := testRuntime.Prepare(spec.ID, spec.Users, &Namespaces{}, false)
	if err != nil {
		t.Fatal(err)
	}
	spec.Namespaces.Net = Namespace{Mode: NamespaceJoin, Path: fmt.Sprintf("/proc/%d/ns/net", pid)}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if w := testRuntime.waiting[spec.ID]; !ended(rawFD(w.pidfd), 10*time.Second) {
		t.Fatal("it does not die")
	}
	for _, what := range []string{"dead", "not there"} {
		if e := startError(t, spec); e.Step != StepPrepared {
			t.Errorf("%s: %+v", what, e)
		}
	}
	if zombies := children(t); zombies != "" {
		t.Errorf("left: %s", zombies)
	}
	if pid, err = testRuntime.Prepare(spec.ID, spec.Users, &Namespaces{}, false); err != nil {
		t.Fatal(err)
	}
	spec.Namespaces.Net.Path = fmt.Sprintf("/proc/%d/ns/net", pid)
	if out, code := run(t, spec); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// TestMappedByPath: kernels that take no descriptors for layers show the same.
func TestMappedByPath(t *testing.T) {
	root := image(t)
	if err := os.Chown(root+"/etc/group", 1000, 29); err != nil {
		t.Fatal(err)
	}
	box := start(t, mappedSpec(t, root, "sleep", "100"))
	userns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", box.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(userns)
	for name, how := range map[string]func(*Overlay, int) (int, error){"descriptors": mappedByDescriptor, "paths": mappedByPath} {
		spec := mappedSpec(t, root, "true")
		o := spec.Root.Overlay
		fd, err := mountMapped(o, spec.Users, userns, how)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, "etc/group", &st, 0); err != nil || st.Uid != base+1000 || st.Gid != base+29 {
			t.Errorf("%s: %v, owner %d, %d", name, err, st.Uid, st.Gid)
		}
		_, err = elsewhere(func() (int, error) {
			for _, nr := range []uintptr{unix.SYS_SETFSGID, unix.SYS_SETFSUID} {
				if _, _, errno := unix.RawSyscall(nr, base, 0, 0); errno != 0 {
					return -1, errno
				}
			}
			if err := unix.Unlinkat(fd, "etc/passwd", 0); err != nil {
				return -1, err
			}
			return -1, unix.Mkdirat(fd, "made", 0o755)
		})
		unix.Close(fd)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, path := range []string{"/made", "/etc/passwd"} {
			if err := unix.Lstat(o.Upper+path, &st); err != nil || st.Uid != 0 {
				t.Errorf("%s: %s on disk: %v, owner %d", name, path, err, st.Uid)
			}
		}
	}
}
