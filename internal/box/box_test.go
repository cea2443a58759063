package box

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var testRuntime *Runtime

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of package box make namespaces and mounts: run them as root")
		os.Exit(1)
	}
	r, err := NewRuntime(Options{Identity: "boxtest", Pool: 2})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testRuntime = r
	code := m.Run()
	r.Close()
	parents, _ := filepath.Glob(cgroupMount + "/*/hezi-boxtest")
	for _, p := range append(parents, cgroupMount+"/hezi-boxtest") {
		_ = unix.Rmdir(p + "/default")
		_ = unix.Rmdir(p + "/devices")
	}
	for _, dir := range append(parents, cgroupMount+"/hezi-boxtest") {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			fmt.Fprintf(os.Stderr, "%s was left with something in it: %v\n", dir, err)
			code = 1
		}
	}
	os.Exit(code)
}

// image makes a busybox root that tests may change.
func image(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bin", "etc", "tmp", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("install busybox-static: %v", err)
	}
	write(t, filepath.Join(root, "bin/busybox"), string(text), 0o755)
	for _, name := range []string{"sh", "true", "cat", "ls", "id", "echo", "sleep", "env", "mount", "stat", "tty", "stty", "touch", "pwd", "hostname", "readlink", "grep", "wc", "mkdir", "ln", "mknod", "dd", "ps", "test", "ulimit", "umask", "sysctl"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n", 0o644)
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\nann:x:1000:\nwheel:x:10:ann,root\naudio:x:29:\n", 0o644)
	return root
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

var dockerCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}

// boxSpec is a box as Docker makes it by default, on an overlay over lower.
func boxSpec(t testing.TB, lower string, args ...string) *Spec {
	t.Helper()
	id := make([]byte, 32)
	rand.Read(id)
	work := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(work, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Spec{
		ID: hex.EncodeToString(id), Hostname: "box",
		Root: Root{Overlay: &Overlay{Lower: []string{lower}, Upper: work + "/upper", Work: work + "/work", Volatile: true}},
		Mounts: []Mount{
			{Type: MountProc, Target: "/proc", NoSuid: true, NoDev: true, NoExec: true},
			{Type: MountTmpfs, Target: "/dev", NoSuid: true, Data: "strictatime,mode=755,size=65536k"},
			{Type: MountDevpts, Target: "/dev/pts", NoSuid: true, NoExec: true, Data: "newinstance,ptmxmode=0666,mode=0620,gid=5"},
			{Type: MountSysfs, Target: "/sys", NoSuid: true, NoDev: true, NoExec: true, ReadOnly: true},
			{Type: MountCgroup, Target: "/sys/fs/cgroup", NoSuid: true, NoDev: true, NoExec: true, ReadOnly: true},
			{Type: MountMqueue, Target: "/dev/mqueue", NoSuid: true, NoDev: true, NoExec: true},
			{Type: MountTmpfs, Target: "/dev/shm", NoSuid: true, NoDev: true, NoExec: true, Data: "mode=1777,size=65536k"},
		},
		Cgroup:        Cgroup{Parent: "/hezi-boxtest"},
		MaskedPaths:   []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		Process: Process{Args: args, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cwd: "/",
			Capabilities: Capabilities{Bounding: dockerCaps, Effective: dockerCaps, Permitted: dockerCaps}},
	}
}

// await reaps a process and gives its exit code.
func await(t testing.TB, p *Proc) int {
	t.Helper()
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(p.PID, &status, 0, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
	p.PidFD.Close()
	if p.Console != nil {
		p.Console.Close()
	}
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func removeGroup(t testing.TB, p *Proc) {
	t.Helper()
	testRuntime.Leave(p.CgroupPaths)
	for _, dir := range p.CgroupPaths {
		var err error
		for range 500 {
			if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
				err = nil
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Errorf("cgroup %s: %v", dir, err)
		}
	}
}

// run starts the box and returns its output and exit code.
func run(t testing.TB, spec *Spec) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, err := testRuntime.Start(ctx, spec, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	out, _ := io.ReadAll(r)
	code := await(t, p)
	removeGroup(t, p)
	return string(out), code
}

func TestTrue(t *testing.T) {
	out, code := run(t, boxSpec(t, image(t), "true"))
	if code != 0 || out != "" {
		t.Fatalf("exit code %d, output %q", code, out)
	}
}

func TestExitCode(t *testing.T) {
	if _, code := run(t, boxSpec(t, image(t), "sh", "-c", "exit 42")); code != 42 {
		t.Fatalf("exit code %d, want 42", code)
	}
}

func TestInside(t *testing.T) {
	out, code := run(t, boxSpec(t, image(t), "sh", "-c", "cat /proc/self/mountinfo /proc/self/status; ls -la /proc/self/fd/ /dev/; hostname; env; pwd; cat /proc/self/cgroup; ulimit -n"))
	t.Log(out)
	if code != 0 || !strings.Contains(out, "\nbox\n") {
		t.Fatalf("exit code %d, output %q", code, out)
	}
}

func start(t testing.TB, spec *Spec) *Proc {
	t.Helper()
	p, err := testRuntime.Start(t.Context(), spec, Stdio{})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		_ = unix.PidfdSendSignal(rawFD(p.PidFD), unix.SIGKILL, nil, 0)
		await(t, p)
		removeGroup(t, p)
	})
	return p
}

func execIn(t testing.TB, box *Proc, p *Process) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	e, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, p, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatalf("exec: %v", err)
	}
	out, _ := io.ReadAll(r)
	return string(out), await(t, e)
}

func TestExec(t *testing.T) {
	spec := boxSpec(t, image(t), "sleep", "100")
	box := start(t, spec)
	p := spec.Process
	p.Args = []string{"sh", "-c", "echo hello; cat /proc/self/status /proc/self/cgroup; ls -l /proc/self/fd/; ps; exit 3"}
	out, code := execIn(t, box, &p)
	t.Log(out)
	if code != 3 || !strings.HasPrefix(out, "hello\n") {
		t.Fatalf("exit code %d, output %q", code, out)
	}
}
