package box

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startError starts a box that must fail and gives its error.
func startError(t *testing.T, spec *Spec) *Error {
	t.Helper()
	p, err := testRuntime.Start(t.Context(), spec, Stdio{})
	if err == nil {
		await(t, p)
		removeGroup(t, p)
		t.Fatal("started, but should have failed")
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *Error", err)
	}
	for _, h := range []string{"memory", "unified", "pids"} {
		if _, err := os.Stat(filepath.Join(cgroupMount, h, spec.Cgroup.Parent, spec.ID)); err == nil {
			t.Errorf("the cgroup in %s was left behind", h)
		}
	}
	return e
}

func TestStartErrors(t *testing.T) {
	root := image(t)
	write(t, root+"/bin/bad", "\x7fELF nothing", 0o755)
	write(t, root+"/bin/nointerp", "#!/nosuch\n", 0o755)
	write(t, root+"/bin/plain", "text", 0o644)
	for _, c := range []struct {
		arg, want string
		code      int
	}{
		{"nosuch", `exec: "nosuch": executable file not found in $PATH`, 127},
		{"/nosuch", `exec: "/nosuch": stat /nosuch: no such file or directory`, 127},
		{"/etc", `exec: "/etc": is a directory`, 126},
		{"/bin/plain", `exec: "/bin/plain": permission denied`, 126},
		{"/bin/bad", "exec format error", 126},
		{"/bin/nointerp", "no such file or directory", 127},
		{"--name", "executable file not found in $PATH", 127},
	} {
		e := startError(t, boxSpec(t, root, c.arg))
		if e.ExitCode != c.code || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s: exit code %d, %q; want %d, %q", c.arg, e.ExitCode, e.Message, c.code, c.want)
		}
	}
}

func TestSpecErrors(t *testing.T) {
	root := image(t)
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"bind":    {func(s *Spec) { s.Mounts = append(s.Mounts, Mount{Type: MountBind, Source: "/no/such", Target: "/x"}) }, "bind source path does not exist: /no/such"},
		"user":    {func(s *Spec) { s.Process.User = "foo" }, "unable to find user foo: no matching entries in passwd file"},
		"group":   {func(s *Spec) { s.Process.User = "ann:bar" }, "unable to find group bar: no matching entries in group file"},
		"overlay": {func(s *Spec) { s.Root.Overlay.Lower[0] = "/no/such" }, "the directory /no/such is missing"},
		"sysctl":  {func(s *Spec) { s.Sysctl = map[string]string{"no.such": "1"} }, "cannot set the sysctl no.such"},
		"tmpfs":   {func(s *Spec) { s.Mounts = append(s.Mounts, Mount{Type: MountTmpfs, Target: "/x", Data: "sizes=1"}) }, `option "sizes=1"`},
		"file": {func(s *Spec) {
			s.Mounts = append(s.Mounts, Mount{Type: MountBind, Source: "/etc/passwd", Target: "/tmp"})
		}, "where the container has a directory"},
		"netns":    {func(s *Spec) { s.Namespaces.Net = Namespace{Mode: NamespaceJoin, Path: "/no/net"} }, "cannot open the net namespace"},
		"cap":      {func(s *Spec) { s.Process.Capabilities.Bounding = []string{"CAP_X"} }, `"CAP_X" is unknown`},
		"nofile":   {func(s *Spec) { s.Process.Rlimits = []Rlimit{{"RLIMIT_NOFILE", 10, 5}} }, "cannot set RLIMIT_NOFILE to 10:5"},
		"no args":  {func(s *Spec) { s.Process.Args = nil }, "no command specified"},
		"cwd file": {func(s *Spec) { s.Process.Cwd = "/etc/passwd" }, "chdir to cwd"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := boxSpec(t, root, "true")
			c.change(spec)
			if e := startError(t, spec); !strings.Contains(e.Message, c.want) {
				t.Errorf("%q, want %q", e.Message, c.want)
			}
		})
	}
}

func TestUsers(t *testing.T) {
	root := image(t)
	for user, want := range map[string]string{
		"":           "uid=0(root) gid=0(root) groups=0(root),10(wheel) HOME=/root",
		"ann":        "uid=1000(ann) gid=1000(ann) groups=10(wheel),1000(ann) HOME=/home/ann",
		"1000":       "uid=1000(ann) gid=1000(ann) groups=10(wheel),1000(ann) HOME=/home/ann",
		"ann:audio":  "uid=1000(ann) gid=29(audio) groups=29(audio) HOME=/home/ann",
		"1234":       "uid=1234 gid=0(root) groups=0(root) HOME=/",
		"1234:5678":  "uid=1234 gid=5678 groups=5678 HOME=/",
		"root:wheel": "uid=0(root) gid=10(wheel) groups=10(wheel) HOME=/root",
	} {
		spec := boxSpec(t, root, "sh", "-c", "echo $(id) HOME=$HOME")
		spec.Process.User = user
		out, _ := run(t, spec)
		if strings.TrimSpace(out) != want {
			t.Errorf("--user %q: %q, want %q", user, strings.TrimSpace(out), want)
		}
	}
	spec := boxSpec(t, root, "id", "-G")
	spec.Process.User, spec.Process.AdditionalGroups = "ann:ann", []string{"audio", "77", "ann", "29"}
	if out, _ := run(t, spec); out != "1000 29 77\n" {
		t.Errorf("additional groups: %q", out)
	}
}

// TestCapabilities: a user has none, root has what was asked, no_new_privs holds.
func TestCapabilities(t *testing.T) {
	root := image(t)
	spec := boxSpec(t, root, "grep", "-E", "^(Cap|NoNew|Seccomp:)", "/proc/self/status")
	spec.Process.User, spec.Process.NoNewPrivileges = "ann", true
	// A filter of one instruction: allow everything.
	spec.Process.Seccomp = []byte{0x06, 0, 0, 0, 0, 0, 0xff, 0x7f}
	out, _ := run(t, spec)
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	spec = boxSpec(t, root, "grep", "-E", "^(Cap|NoNew|Seccomp:)", "/proc/self/status")
	spec.Process.Seccomp = []byte{0x06, 0, 0, 0, 0, 0, 0xff, 0x7f}
	out, _ = run(t, spec)
	for _, want := range []string{"CapPrm:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "NoNewPrivs:\t0", "Seccomp:\t2"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

func readConsole(t *testing.T, p *Proc) string {
	t.Helper()
	out := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(p.Console)
		out <- string(text)
	}()
	select {
	case text := <-out:
		return text
	case <-time.After(10 * time.Second):
		t.Fatal("the terminal gives no end")
		return ""
	}
}

func TestTerminal(t *testing.T) {
	spec := boxSpec(t, image(t), "sh", "-c", "tty; stty size; grep -c console /proc/self/mountinfo; echo x > /dev/console; echo y > /dev/tty")
	spec.Process.Terminal, spec.Process.ConsoleHeight, spec.Process.ConsoleWidth = true, 33, 99
	p, err := testRuntime.Start(t.Context(), spec, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	out := readConsole(t, p)
	await(t, p)
	removeGroup(t, p)
	if out != "/dev/pts/0\r\n33 99\r\n1\r\nx\r\ny\r\n" {
		t.Errorf("%q", out)
	}
}

func TestExecTerminalAndErrors(t *testing.T) {
	spec := boxSpec(t, image(t), "sleep", "100")
	box := start(t, spec)
	p := spec.Process
	p.Args, p.Terminal, p.ConsoleHeight, p.ConsoleWidth = []string{"sh", "-c", "tty; stty size; echo y > /dev/tty"}, true, 10, 20
	e, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if out := readConsole(t, e); out != "/dev/pts/0\r\n10 20\r\ny\r\n" {
		t.Errorf("%q", out)
	}
	await(t, e)
	p.Terminal, p.Args = false, []string{"nosuch"}
	_, err = testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
	var step *Error
	if !errors.As(err, &step) || step.ExitCode != 127 {
		t.Errorf("%v", err)
	}
	p.Args, p.Cwd = []string{"true"}, "/proc/self/fd/3"
	if _, err = testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{}); err == nil {
		t.Error("a descriptor of init became the working directory")
	}
}

func TestCopyUp(t *testing.T) {
	root := image(t)
	if err := os.MkdirAll(root+"/data/sub", 0o750); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/data/sub/a", "text", 0o640)
	for _, err := range []error{
		os.Chown(root+"/data", 1000, 1000), os.Chmod(root+"/data", 0o711), os.Chown(root+"/data/sub/a", 7, 8),
		os.Link(root+"/data/sub/a", root+"/data/b"), os.Symlink("sub/a", root+"/data/l"),
		unix.Setxattr(root+"/data/sub/a", "user.k", []byte("v"), 0), os.Chtimes(root+"/data/sub/a", time.Unix(5, 0), time.Unix(7, 0)),
		os.Lchown(root+"/data/l", 3, 4),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	volume := t.TempDir()
	spec := boxSpec(t, root, "stat", "-c", "%n %a %u:%g %h %F %Y", "/data", "/data/sub", "/data/sub/a", "/data/b", "/data/l")
	spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: volume, Target: "/data", CopyUp: true, ReadOnly: true})
	out, _ := run(t, spec)
	for _, want := range []string{"/data 711 1000:1000", "/data/sub 750 0:0", "/data/sub/a 640 7:8 2 regular file 7\n", "/data/b 640 7:8 2", "/data/l 777 3:4"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(volume+"/sub/a", "user.k", value); err != nil || string(value[:n]) != "v" {
		t.Errorf("extended attribute: %v", err)
	}
	os.Remove(volume + "/b") // a volume that is not empty is left alone
	spec = boxSpec(t, root, "test", "-e", "/data/b")
	spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: volume, Target: "/data", CopyUp: true})
	if _, code := run(t, spec); code != 1 {
		t.Error("a used volume was filled again")
	}
}

// TestEscapes: links in the image lead nowhere outside.
func TestEscapes(t *testing.T) {
	outside := t.TempDir()
	root := image(t)
	os.Symlink(outside, root+"/abs")
	os.Symlink("../../../../../../.."+outside, root+"/rel")
	source := t.TempDir()
	for _, target := range []string{"/abs/x", "/rel/y", "/tmp/../../../../z"} {
		spec := boxSpec(t, root, "test", "-d", target)
		spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: source, Target: target})
		if _, code := run(t, spec); code != 0 {
			t.Errorf("%s is not there", target)
		}
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("made outside of the root: %v", left)
	}
	for _, dir := range []string{"dev", "proc", "sys"} {
		bad := image(t)
		os.Symlink("etc", bad+"/"+dir)
		if e := startError(t, boxSpec(t, bad, "true")); !strings.Contains(e.Message, "symbolic link") {
			t.Errorf("/%s as a symbolic link: %q", dir, e.Message)
		}
	}
	for _, cwd := range []string{"/proc/self/fd/3", "/proc/1/fd/7", "/proc/self/fd/0/.."} {
		spec := boxSpec(t, root, "pwd")
		spec.Process.Cwd = cwd
		startError(t, spec)
	}
	spec := boxSpec(t, root, "sh", "-c", "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; touch /proc/sys/x 2>&1; dd if=/dev/zero of=/proc/1/exe bs=1 count=1 2>/dev/null; ls /proc/1/fd | wc -l")
	out, _ := run(t, spec)
	if !strings.HasPrefix(out, "0\n0\n") {
		t.Errorf("masks: %q", out)
	}
}

func TestReadOnlyRootAndMounts(t *testing.T) {
	spec := boxSpec(t, image(t), "sh", "-c", "touch /x; touch /tmp/x && touch /dev/x; echo $?; grep ' /host' /proc/self/mountinfo; touch /host/x; pwd; umask")
	spec.Root.ReadOnly = true
	spec.Process.Cwd = "/new/dir"
	source := t.TempDir()
	spec.Mounts = append(spec.Mounts, Mount{Type: MountTmpfs, Target: "/tmp"}, Mount{Type: MountBind, Source: source, Target: "/host", ReadOnly: true, Recursive: true, Propagation: "rslave"})
	out, _ := run(t, spec)
	for _, want := range []string{"touch: /x: Read-only file system", "touch: /host/x: Read-only file system", "\n0\n", "/new/dir\n", "0022"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

func TestNamespaces(t *testing.T) {
	root := image(t)
	host := func(name string) string { s, _ := os.Readlink("/proc/self/ns/" + name); return s }
	spec := boxSpec(t, root, "sh", "-c", "for n in pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done")
	spec.Hostname = ""
	all := &spec.Namespaces
	all.PID.Mode, all.Net.Mode, all.IPC.Mode, all.UTS.Mode, all.Cgroup.Mode = NamespaceHost, NamespaceHost, NamespaceHost, NamespaceHost, NamespaceHost
	out, code := run(t, spec)
	if want := strings.Join([]string{host("pid"), host("net"), host("ipc"), host("uts"), host("cgroup")}, "\n") + "\n"; code != 0 || out != want {
		t.Errorf("host namespaces: %q, want %q", out, want)
	}
	first := start(t, boxSpec(t, root, "sleep", "100"))
	spec = boxSpec(t, root, "sh", "-c", "ps; hostname")
	spec.Hostname = ""
	base := "/proc/" + strconv.Itoa(first.PID) + "/ns/"
	all = &spec.Namespaces
	all.PID, all.Net, all.IPC, all.UTS = Namespace{Mode: NamespaceJoin, Path: base + "pid"}, Namespace{Mode: NamespaceJoin, Path: base + "net"}, Namespace{Mode: NamespaceJoin, Path: base + "ipc"}, Namespace{Mode: NamespaceJoin, Path: base + "uts"}
	if out, _ := run(t, spec); !strings.Contains(out, "1 root     sleep 100") || !strings.Contains(out, "\nbox\n") {
		t.Errorf("joined namespaces: %q", out)
	}
}

// TestOwner: what is another box's is found by its pidfd, inside its own mounts,
// and through no link there.
func TestOwner(t *testing.T) {
	root := image(t)
	if err := os.Symlink("/etc", root+"/link"); err != nil {
		t.Fatal(err)
	}
	first := start(t, boxSpec(t, root, "sh", "-c", "echo text >/dev/shm/x; sleep 100"))
	other := &Owner{ID: "first", Process: first.PidFD}
	spec := boxSpec(t, root, "sh", "-c", "until grep text /dev/shm/x; do :; done; ps; hostname")
	spec.Hostname, spec.Root.Overlay.Volatile = "", false // it is started again
	n := &spec.Namespaces
	for _, ns := range []*Namespace{&n.PID, &n.Net, &n.IPC, &n.UTS} {
		*ns = Namespace{Mode: NamespaceJoin, Of: other}
	}
	last := &spec.Mounts[len(spec.Mounts)-1]
	*last = Mount{Type: MountBind, Of: other, Source: "/dev/shm", Target: "/dev/shm"}
	if out, code := run(t, spec); code != 0 || !strings.HasPrefix(out, "text\n") || !strings.Contains(out, " 1 root ") || !strings.HasSuffix(out, "\nbox\n") {
		t.Errorf("exit code %d, %q", code, out)
	}
	last.Source = "/link"
	if e := startError(t, spec); !strings.Contains(e.Message, "cannot open the bind source path /link") {
		t.Error(e.Message)
	}
	_ = unix.PidfdSendSignal(rawFD(first.PidFD), unix.SIGKILL, nil, 0)
	ended(rawFD(first.PidFD), time.Second)
	if e := startError(t, spec); !strings.Contains(e.Message, "is not running") {
		t.Error(e.Message)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := testRuntime.Start(ctx, boxSpec(t, image(t), "true"), Stdio{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func count(t *testing.T) (fds, mounts, goroutines int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return len(list), strings.Count(string(text), "\n"), runtime.NumGoroutine()
}

func TestNoLeaks(t *testing.T) {
	root := image(t)
	run(t, boxSpec(t, root, "true"))
	fds, mounts, goroutines := count(t)
	for i := range 50 {
		if i%5 == 4 {
			startError(t, boxSpec(t, root, "nosuch"))
		} else {
			run(t, boxSpec(t, root, "true"))
		}
	}
	f, m, g := count(t)
	for end := time.Now().Add(30 * time.Second); (f > fds || m > mounts || g > goroutines) && time.Now().Before(end); { // other rooms' tests mount, too
		time.Sleep(200 * time.Millisecond)
		f, m, g = count(t)
	}
	if f > fds || m > mounts || g > goroutines {
		t.Errorf("descriptors %d -> %d, mounts %d -> %d, goroutines %d -> %d", fds, f, mounts, m, goroutines, g)
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD && testRuntime.pool.base == 0 {
		t.Errorf("a process was left: %v", err)
	}
}

func TestTinyInit(t *testing.T) {
	spec := boxSpec(t, image(t), "sh", "-c", "ps; exit 9")
	spec.Init = true
	out, code := run(t, spec)
	if code != 9 || !strings.Contains(out, "hezi-init /bin/sh sh -c") {
		t.Errorf("exit code %d, %q", code, out)
	}
	spec = boxSpec(t, image(t), "nosuch")
	spec.Init = true
	if e := startError(t, spec); e.ExitCode != 127 {
		t.Errorf("%v", e)
	}
}

// TestParallel starts and execs side by side: no descriptor and no cgroup of
// one reaches another.
func TestParallel(t *testing.T) {
	root := image(t)
	spec := boxSpec(t, root, "sleep", "100")
	box := start(t, spec)
	for i := range 8 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			for range 8 {
				s := boxSpec(t, root, "sh", "-c", "ls /proc/self/fd; exit "+strconv.Itoa(i))
				if out, code := run(t, s); code != i || out != "0\n1\n2\n3\n" { // 3 is what ls itself reads
					t.Errorf("exit code %d, descriptors %q", code, out)
				}
				p := spec.Process
				p.Args = []string{"sh", "-c", "exit " + strconv.Itoa(i)}
				if _, code := execIn(t, box, &p); code != i {
					t.Errorf("exec: exit code %d, want %d", code, i)
				}
			}
		})
	}
}

func TestProcessSettings(t *testing.T) {
	adj, umask := 100, uint32(0o77)
	spec := boxSpec(t, image(t), "sh", "-c", "cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start; ulimit -n; ulimit -Hn; umask; stat -c %t:%T:%a:%u /dev/thing; sleep 100")
	spec.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	spec.Devices = []Device{{Path: "/dev/thing", Type: "c", Major: 1, Minor: 5, Mode: 0o640, UID: 5}}
	p := &spec.Process
	p.OOMScoreAdj, p.Umask, p.Rlimits = &adj, &umask, []Rlimit{{"RLIMIT_NOFILE", 100, 200}}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	box, err := testRuntime.Start(t.Context(), spec, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.PidfdSendSignal(rawFD(box.PidFD), unix.SIGKILL, nil, 0)
		await(t, box)
		removeGroup(t, box)
	}()
	want := "100\n0\n100\n200\n0077\n1:5:640:5\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("%q, want %q (%v)", got, want, err)
	}
	e := *p
	adj = 200
	e.User, e.Args = "ann", []string{"sh", "-c", "cat /proc/self/oom_score_adj; ulimit -n; id -u; grep -E 'Cap(Prm|Bnd)' /proc/self/status"}
	out, _ := execIn(t, box, &e)
	if out != "200\n100\n1000\nCapPrm:\t0000000000000000\nCapBnd:\t00000000a80425fb\n" {
		t.Errorf("exec: %q", out)
	}
}
