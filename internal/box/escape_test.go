package box

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box/initbin"
)

// The escapes of other runtimes that an init of our own must hold. Each test
// has an image or a process that races.

// exchange swaps two names all the time, until the test has ended it.
func exchange(t *testing.T, a, b string) (end func()) {
	t.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// tryRun starts a box that may fail: losing a race can be an error.
func tryRun(t *testing.T, spec *Spec) (string, bool) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := testRuntime.Start(t.Context(), spec, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		return "", false
	}
	out, _ := io.ReadAll(r)
	await(t, p)
	removeGroup(t, p)
	return string(out), true
}

// withoutDev takes /dev and what is below it out of a box.
func withoutDev(spec *Spec) {
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m Mount) bool { return strings.HasPrefix(m.Target, "/dev") })
}

// TestInitOfAll: every box runs the same copy of init. A program with more
// rights than most (CAP_SYS_PTRACE) that catches one on its way into the box
// can neither write it (CVE-2019-5736), nor make it not executable for the
// boxes to come, nor reach the host by its descriptors.
func TestInitOfAll(t *testing.T) {
	root, bin := image(t), t.TempDir()+"/racer"
	build := exec.Command("go", "build", "-o", bin, "./testdata/racer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Rename(bin, root+"/bin/racer"); err != nil {
		if out, err := exec.Command("cp", bin, root+"/bin/racer").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	marker := t.TempDir() + "/of-the-host"
	write(t, marker, "", 0o600)
	bare, err := NewRuntime(Options{Identity: "boxtest"}) // no spare keeps init busy: it may be written when none runs
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	spec := boxSpec(t, root, "racer", strconv.Itoa(os.Getpid())+"/root"+marker)
	for _, set := range []*[]string{&spec.Process.Capabilities.Bounding, &spec.Process.Capabilities.Effective, &spec.Process.Capabilities.Permitted} {
		*set = append(slices.Clone(*set), "CAP_SYS_PTRACE")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	box, err := bare.Start(t.Context(), spec, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(r)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	p := spec.Process
	p.Args = []string{"true"}
	for range 40 {
		e, err := bare.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
		if err != nil {
			t.Fatalf("exec: %v", err)
		}
		await(t, e)
	}
	bare.Leave(box.CgroupPaths)
	p.Args = []string{"touch", "/tmp/stop"}
	if e, err := bare.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{}); err != nil {
		t.Errorf("exec: %v", err)
	} else {
		await(t, e)
	}
	bare.Leave(box.CgroupPaths)
	report, _ := io.ReadAll(lines)
	await(t, box)
	bare.Leave(box.CgroupPaths)
	removeGroup(t, box)
	t.Logf("%s", report)
	if !strings.HasSuffix(string(report), " chmods=0 writes=0 escapes=0\n") {
		t.Errorf("%s", report)
	}
	sameInit(t, bare.init)
}

func sameInit(t *testing.T, f *os.File) {
	t.Helper()
	fresh, err := initbin.Init()
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	want, err := io.ReadAll(io.NewSectionReader(fresh, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil || string(got) != string(want) {
		t.Errorf("init was changed: %d bytes of %d (%v)", len(got), len(want), err)
	}
	if st, err := f.Stat(); err != nil || st.Mode().Perm() != 0o111 {
		t.Errorf("init's mode is %v (%v)", st.Mode(), err)
	}
}

// TestTinyOfAll is the same for the process 1 of --init, which every program
// inside can reach.
func TestTinyOfAll(t *testing.T) {
	root := image(t)
	for _, name := range []string{"chmod", "chown"} {
		if err := os.Symlink("busybox", root+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	spec := boxSpec(t, root, "sh", "-c", "chmod 0 /proc/1/exe; chown 7 /proc/1/exe; echo x > /proc/1/exe; echo done")
	spec.Init = true
	if out, _ := run(t, spec); strings.Count(out, "Read-only file system") != 3 {
		t.Errorf("%q", out)
	}
	for _, user := range []string{"", "ann"} {
		spec = boxSpec(t, root, "id", "-u")
		spec.Init, spec.Process.User = true, user
		if out, code := run(t, spec); code != 0 || out != map[string]string{"": "0\n", "ann": "1000\n"}[user] {
			t.Errorf("user %q: exit code %d, %q", user, code, out)
		}
	}
}

// TestInitIsReadOnly: nothing can write to the init that the keeper runs, and
// the program /proc/self/exe is init without its work.
func TestInitIsReadOnly(t *testing.T) {
	path := "/proc/self/fd/" + strconv.Itoa(rawFD(testRuntime.init))
	for what, err := range map[string]error{
		"write": func() error { _, err := testRuntime.init.WriteAt([]byte{0}, 0); return err }(),
		"open":  func() error { _, err := os.OpenFile(path, os.O_RDWR, 0); return err }(),
		"chmod": testRuntime.init.Chmod(0),
		"chown": testRuntime.init.Chown(1, 1),
		"acl":   unix.Setxattr(path, "system.posix_acl_access", []byte{2, 0, 0, 0}, 0),
		"user":  unix.Setxattr(path, "user.x", []byte("y"), 0),
	} {
		if err == nil {
			t.Errorf("%s: allowed", what)
		}
	}
	sameInit(t, testRuntime.init)
	root := image(t)
	if err := os.Symlink("/proc/self/exe", root+"/bin/self"); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/bin/script", "#!/proc/self/exe\n", 0o755)
	for _, program := range []string{"/proc/self/exe", "self", "script"} {
		if out, code := run(t, boxSpec(t, root, program)); code != 1 || out != "" {
			t.Errorf("%s ran as something: exit code %d, %q", program, code, out)
		}
	}
	run(t, boxSpec(t, root, "true"))
}

// TestLeakedDescriptors: what the engine leaves open, and does not mark to be closed,
// reaches no program and is no way out for a working directory (CVE-2024-21626).
func TestLeakedDescriptors(t *testing.T) {
	host, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(host)
	for _, n := range []int{40, 400} {
		if err := unix.Dup3(host, n, 0); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(n)
	}
	root := image(t)
	box := start(t, boxSpec(t, root, "sleep", "100"))
	list := func(spec *Spec) {
		t.Helper()
		if out, code := run(t, spec); code != 0 || out != "0\n1\n2\n3\n" { // 3 is what ls itself reads
			t.Errorf("exit code %d, descriptors %q", code, out)
		}
	}
	for range 3 { // with an init that was prepared, and without one
		list(boxSpec(t, root, "ls", "/proc/self/fd"))
		beside := boxSpec(t, root, "ls", "/proc/self/fd")
		beside.Namespaces.PID = Namespace{Mode: NamespaceJoin, Path: "/proc/" + strconv.Itoa(box.PID) + "/ns/pid"}
		list(beside)
		p := boxSpec(t, root, "ls", "/proc/self/fd").Process
		if out, code := execIn(t, box, &p); code != 0 || out != "0\n1\n2\n3\n" {
			t.Errorf("exec: exit code %d, descriptors %q", code, out)
		}
	}
	for _, n := range []string{"40", "400", strconv.Itoa(host)} {
		spec := boxSpec(t, root, "true")
		spec.Process.Cwd = "/proc/self/fd/" + n
		startError(t, spec)
	}
}

// TestRacingWorkingDirectory: the working directory becomes a link to one of
// init's own descriptors after it was found to be good (CVE-2024-21626).
func TestRacingWorkingDirectory(t *testing.T) {
	root := image(t)
	for n := 4; n < 12; n++ {
		volume := t.TempDir()
		if err := os.Mkdir(volume+"/a", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/proc/self/fd/"+strconv.Itoa(n), volume+"/b"); err != nil {
			t.Fatal(err)
		}
		end := exchange(t, volume+"/a", volume+"/b")
		for range 6 {
			spec := boxSpec(t, root, "sh", "-c", "test -e self && echo outside; ls -d ../../../1/root 2>/dev/null; readlink /proc/self/cwd")
			spec.Process.Cwd = "/vol/a"
			spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: volume, Target: "/vol"})
			if out, ok := tryRun(t, spec); ok && (strings.Count(out, "\n") != 1 || out[0] != '/') {
				t.Errorf("descriptor %d: the working directory is outside: %q", n, out)
			}
		}
		end()
	}
	// An image that has the link in place, and execs into it.
	for n := 3; n < 14; n++ {
		link := "/proc/self/fd/" + strconv.Itoa(n)
		if err := os.Symlink(link, root+"/work"+strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
		spec := boxSpec(t, root, "true")
		spec.Process.Cwd = "/work" + strconv.Itoa(n)
		startError(t, spec)
	}
	spec := boxSpec(t, root, "sleep", "100")
	box := start(t, spec)
	for n := 3; n < 14; n++ {
		for _, cwd := range []string{"/work" + strconv.Itoa(n), "/proc/self/fd/" + strconv.Itoa(n), "/proc/1/fd/" + strconv.Itoa(n)} {
			p := spec.Process
			p.Args, p.Cwd = []string{"readlink", "/proc/self/cwd"}, cwd
			if e, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{}); err == nil {
				await(t, e)
				t.Errorf("exec ran in %s", cwd)
			}
		}
	}
}

// TestMasksOfAStrangeNull: what the box has as /dev/null never becomes a mask
// or a standard stream (CVE-2025-31133).
func TestMasksOfAStrangeNull(t *testing.T) {
	root, volume := image(t), t.TempDir()
	write(t, volume+"/null", "not the null device", 0o666)
	if err := os.Symlink("/proc/sys/kernel/core_pattern", volume+"/link"); err != nil {
		t.Fatal(err)
	}
	end := exchange(t, volume+"/null", volume+"/link")
	defer end()
	for i := range 12 {
		spec := boxSpec(t, root, "stat", "-L", "-c", "%t:%T", "/proc/timer_list", "/proc/keys", "/proc/self/fd/0")
		spec.MaskedPaths = []string{"/proc/timer_list", "/proc/keys"}
		if i%2 == 0 {
			withoutDev(spec)
			spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: volume, Target: "/dev"})
		} else {
			spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: root + "/etc/passwd", Target: "/dev/null"})
		}
		if out, code := run(t, spec); code != 0 || out != "1:3\n1:3\n1:3\n" {
			t.Fatalf("round %d: exit code %d, %q", i, code, out)
		}
	}
}

// TestDeviceOfTheUser: a mount at the place of a default device stands for it.
func TestDeviceOfTheUser(t *testing.T) {
	root := image(t)
	for _, devices := range [][]Device{nil, {{Path: "/dev/random", Type: "c", Major: 1, Minor: 8, Mode: 0o666}}} {
		spec := boxSpec(t, root, "stat", "-c", "%t:%T", "/dev/random")
		spec.Devices = devices
		spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: "/dev/urandom", Target: "/dev/random"})
		if out, code := run(t, spec); code != 0 || out != "1:9\n" {
			t.Errorf("exit code %d, %q", code, out)
		}
	}
}

// TestRacingConsole: /dev/console and /dev/pts are swapped for links while a
// terminal is put there; nothing else is covered (CVE-2025-52565).
func TestRacingConsole(t *testing.T) {
	root, volume := image(t), t.TempDir()
	for _, dir := range []string{"pts", "fake"} {
		if err := os.Mkdir(volume+"/"+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, volume+"/fake/ptmx", "", 0o666)
	write(t, volume+"/console", "", 0o600)
	if err := os.Symlink("/proc/sys/kernel/core_pattern", volume+"/link"); err != nil {
		t.Fatal(err)
	}
	endConsole, endPts := exchange(t, volume+"/console", volume+"/link"), exchange(t, volume+"/pts", volume+"/fake")
	defer endConsole()
	defer endPts()
	for i := range 30 {
		spec := boxSpec(t, root, "grep", "devpts", "/proc/self/mountinfo")
		spec.Process.Terminal = true
		withoutDev(spec)
		spec.Mounts = append(spec.Mounts, Mount{Type: MountBind, Source: volume, Target: "/dev"},
			Mount{Type: MountDevpts, Target: "/dev/pts", NoSuid: true, NoExec: true, Data: "newinstance,ptmxmode=0666,mode=0620,gid=5"})
		p, err := testRuntime.Start(t.Context(), spec, Stdio{})
		if err != nil {
			continue
		}
		out := readConsole(t, p)
		await(t, p)
		removeGroup(t, p)
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			if f := strings.Fields(line); len(f) > 4 && !strings.HasPrefix(f[4], "/dev/") {
				t.Fatalf("round %d: the terminal covers %s", i, f[4])
			}
		}
	}
}

// TestFakeProcfs: settings of the kernel go to the kernel, whatever the box has
// at /proc (CVE-2025-52881).
func TestFakeProcfs(t *testing.T) {
	const name, adjustment = "net/ipv4/ip_unprivileged_port_start", "self/oom_score_adj"
	root, fake, adj := image(t), t.TempDir(), 321
	for _, f := range []string{"sys/" + name, adjustment, "self/attr/exec"} {
		if err := os.MkdirAll(fake+"/"+f[:strings.LastIndex(f, "/")], 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, fake+"/"+f, "untouched", 0o666)
	}
	spec := boxSpec(t, root, "sleep", "100")
	for i := range spec.Mounts {
		if spec.Mounts[i].Type == MountProc {
			spec.Mounts[i] = Mount{Type: MountBind, Source: fake, Target: "/proc"}
		}
	}
	spec.Mounts = append(spec.Mounts, Mount{Type: MountProc, Target: "/real"})
	spec.MaskedPaths, spec.ReadonlyPaths = nil, nil
	spec.Sysctl = map[string]string{strings.ReplaceAll(name, "/", "."): "77"}
	spec.Process.OOMScoreAdj = &adj
	box := start(t, spec)
	p := spec.Process
	adj = 432
	p.Args = []string{"sh", "-c", "cat /real/sys/" + name + " /real/1/oom_score_adj /real/" + adjustment + " /proc/sys/" + name + " /proc/" + adjustment}
	if out, code := execIn(t, box, &p); code != 0 || out != "77\n321\n432\nuntoucheduntouched" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

// TestHostCgroupNamespace: a spare that has a cgroup namespace of its own is
// not for a box that asks for the host's.
func TestHostCgroupNamespace(t *testing.T) {
	host, err := os.Readlink("/proc/self/ns/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	root := image(t)
	for range 4 {
		run(t, boxSpec(t, root, "true"))
		for range 100 { // a spare builds what this box had
			if time.Sleep(2 * poolLull); len(testRuntime.pool.ready) > 0 {
				break
			}
		}
		spec := boxSpec(t, root, "readlink", "/proc/self/ns/cgroup")
		spec.Namespaces.Cgroup.Mode, spec.Namespaces.Net.Mode = NamespaceHost, NamespaceHost
		if out, _ := run(t, spec); out != host+"\n" {
			t.Errorf("%q, want the host's %s", out, host)
		}
	}
}
