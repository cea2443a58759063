package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// step is one command and what it must say.
type step struct {
	args []string
	in   string
	out  string // all of standard output; "*" anything
	err  string // part of standard error
	code int
}

// TestRuntimes: a container has the same life whichever runtime it has.
func TestRuntimes(t *testing.T) {
	declared, names := harness.Runtimes(t)
	e := configured(t, `{"userns-auto-range": "700000:1966080", "runtimes": `+declared+`}`)
	if err := os.Chmod(e.Dir, 0o711); err != nil { // for the roots of user namespaces
		t.Fatal(err)
	}
	for _, name := range names {
		e.Must(t, "run", "--rm", "--runtime", name, "busybox", "true")
	}
	before := e.Count()
	for i, name := range names {
		t.Run(fmt.Sprintf("%d %s", i, filepath.Base(name)), func(t *testing.T) {
			life := [][]step{oneShot(name), long(name)}
			if name == "own-oci" || filepath.IsAbs(name) { // of which the parts are tested elsewhere
				life = [][]step{life[0][:4]}
			}
			for _, steps := range life {
				for _, s := range steps {
					r := e.HeziIn([]byte(s.in), s.args...)
					if r.Code != s.code || s.out != "*" && strings.TrimSpace(strings.ReplaceAll(r.Out, "\r", "")) != s.out || !strings.Contains(r.Err, s.err) {
						t.Errorf("%q: exit code %d, %q, %q: want %d, %q, %q", s.args, r.Code, r.Out, r.Err, s.code, s.out, s.err)
					}
				}
			}
			t.Run("terminal", func(t *testing.T) { terminalOf(t, e, name) })
			if len(life) > 1 {
				t.Run("exec's group", func(t *testing.T) { groupOf(t, e, name) })
				t.Run("restart", func(t *testing.T) { restartOf(t, e, name) })
				t.Run("memory", func(t *testing.T) { memoryOf(t, e, name) })
				t.Run("users", func(t *testing.T) { usersOf(t, e, name) })
			}
			if left, err := filepath.Glob(filepath.Join(e.Dir, "run/runtimes/[0-9a-f]*")); len(left) > 0 || err != nil {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
	e.NothingLeft(t, before, 4)
}

// oneShot are containers that end by themselves.
func oneShot(name string) []step {
	run := func(args ...string) []string { return append([]string{"run", "--rm", "--runtime", name}, args...) }
	return []step{
		{args: run("busybox", "sh", "-c", "echo out; echo err >&2; exit 7"), out: "out", err: "err", code: 7},
		{args: run("busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"), code: 137, out: "*"},
		{args: run("-i", "busybox", "cat"), in: "through\n", out: "through"},
		{args: run("-u", "12:13", "--group-add", "14", "-w", "/made/here", "-e", "A=b", "busybox", "sh", "-c", "id -u; id -G; pwd; echo $A"), out: "12\n13 14\n/made/here\nb"},
		{args: run("-u", "nobody-knows", "busybox", "true"), err: "unable to find user nobody-knows: no matching entries in passwd file", code: 125},
		{args: run("busybox", "absent"), err: "not found in $PATH", code: 127},
		{args: run("busybox", "/etc/passwd"), err: "ermission denied", code: 126, out: ""},
		{args: run("--hostname", "inside", "--domainname", "example.org", "busybox", "sh", "-c", "hostname; cat /proc/sys/kernel/domainname"), out: "inside\nexample.org"},
		{args: run("--read-only", "--tmpfs", "/t", "busybox", "sh", "-c", "touch /x 2>/dev/null || touch /t/x && echo ok"), out: "ok"},
		{args: run("-v", "/etc:/host:ro", "busybox", "sh", "-c", "touch /host/hezi-test 2>/dev/null || echo read-only"), out: "read-only"},
		{args: run("-v", "/etc/new", "busybox", "sh", "-c", "ls /etc/new"), out: ""},
		{args: run("--init", "busybox", "sh", "-c", "exit 9"), code: 9, out: ""},
		{args: run("--init", "busybox", "absent"), code: 127, out: "", err: "absent"},
		{args: run("--cap-drop", "ALL", "busybox", "grep", "CapBnd", "/proc/self/status"), out: "CapBnd:\t0000000000000000"},
		{args: run("busybox", "grep", "CapBnd", "/proc/self/status"), out: "CapBnd:\t00000000a80425fb"},
		{args: run("busybox", "grep", "Seccomp:", "/proc/self/status"), out: "Seccomp:\t2"},
		{args: run("--security-opt", "seccomp=unconfined", "busybox", "grep", "Seccomp:", "/proc/self/status"), out: "Seccomp:\t0"},
		{args: run("--privileged", "busybox", "sh", "-c", "mount -t tmpfs none /mnt 2>/dev/null || mkdir /m && mount -t tmpfs none /m; echo $?"), out: "0"},
		{args: run("busybox", "sh", "-c", "mknod /tmp/sda b 8 0 && ! cat /tmp/sda 2>/dev/null && echo refused"), out: "refused"},
		{args: run("--device", "/dev/null:/dev/mine", "busybox", "sh", "-c", "test -c /dev/mine && echo there"), out: "there"},
		{args: run("--sysctl", "net.core.somaxconn=123", "busybox", "cat", "/proc/sys/net/core/somaxconn"), out: "123"},
		{args: run("--ulimit", "nofile=100:100", "busybox", "sh", "-c", "ulimit -n"), out: "100"},
		{args: run("--pid", "host", "--uts", "host", "--ipc", "host", "--network", "host", "busybox", "sh", "-c", "test $(ps | wc -l) -gt 3 && echo host"), out: "host"},
	}
}

// long is the life of a container that runs.
func long(name string) []step {
	const program = "echo begun; trap 'echo asked; exit 5' TERM; while :; do sleep 0.1; done"
	format := func(f string) []string { return []string{"inspect", "-f", f, "box"} }
	return []step{
		{args: []string{"create", "--name", "box", "--runtime", name, "-m", "64m", "--memory-swap", "128m", "--annotation", "a=b", "-p", "127.0.0.1::80", "--health-cmd", "test -e /well", "--health-interval", "100ms", "busybox", "sh", "-c", program}, out: "*"},
		{args: format("{{.State.Status}} {{.HostConfig.Runtime}}"), out: "created " + name},
		{args: []string{"start", "box"}, out: "box"},
		{args: format("{{.State.Running}}"), out: "true"},
		{args: []string{"exec", "box", "sh", "-c", "exit 3"}, code: 3},
		{args: []string{"exec", "box", "true"}},
		{args: []string{"exec", "-i", "box", "cat"}, in: "given\n", out: "given"},
		{args: []string{"exec", "-u", "12", "-w", "/tmp", "-e", "C=d", "box", "sh", "-c", "id -u; pwd; echo $C"}, out: "12\n/tmp\nd"},
		{args: []string{"exec", "-t", "box", "tty"}, out: "/dev/pts/0"},
		{args: []string{"exec", "box", "absent"}, code: 127, err: "not found in $PATH"},
		{args: []string{"exec", "-u", "nobody-knows", "box", "true"}, code: 126, err: "unable to find user nobody-knows", out: ""},
		{args: []string{"exec", "--privileged", "box", "sh", "-c", "grep -q 'CapBnd.*a80425fb' /proc/self/status || echo more"}, out: "more"},
		{args: []string{"exec", "box", "grep", "Seccomp:", "/proc/self/status"}, out: "Seccomp:\t2"},
		{args: []string{"exec", "-d", "box", "sh", "-c", "touch /well"}, out: ""},
		{args: []string{"exec", "box", "sh", "-c", "until [ -e /well ]; do sleep 0.05; done; cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"}, out: "67108864"},
		{args: []string{"update", "-m", "96m", "--memory-swap", "192m", "--pids-limit", "40", "box"}, out: "box"},
		{args: []string{"exec", "box", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"}, out: "100663296\n40"},
		{args: []string{"pause", "box"}, out: "box"},
		{args: format("{{.State.Status}}"), out: "paused"},
		{args: []string{"exec", "box", "true"}, code: 1, err: "is paused"},
		{args: []string{"unpause", "box"}, out: "box"},
		{args: []string{"stats", "--no-stream", "--format", "{{.Name}}", "box"}, out: "box"},
		{args: []string{"top", "box", "-o", "pid,args"}, out: "*"},
		{args: []string{"run", "--rm", "--runtime", name, "--pid", "container:box", "--ipc", "none", "--network", "container:box", "busybox", "sh", "-c", "ps | grep -q begun && echo seen"}, out: "seen"},
		{args: []string{"export", "box", "-o", os.DevNull}, out: ""},
		{args: []string{"kill", "-s", "TERM", "box"}, out: "box"},
		{args: []string{"wait", "box"}, out: "5"},
		{args: []string{"logs", "box"}, out: "begun\nasked"},
		{args: []string{"start", "box"}, out: "box"},
		{args: []string{"stop", "-t", "20", "box"}, out: "box"},
		{args: format("{{.State.ExitCode}} {{.State.Status}}"), out: "5 exited"},
		{args: []string{"start", "box"}, out: "box"},
		{args: []string{"exec", "-d", "box", "sleep", "1000"}, out: ""},
		{args: []string{"rm", "-f", "box"}, out: "box"},
	}
}

// groupOf: what an exec leaves behind is ended with it, where the runtime can put
// an exec into a group of its own.
func groupOf(t *testing.T, e *harness.Engine, name string) {
	if name != "runc" && name != "hezi" {
		t.Skip(name + " knows no cgroup of an exec's own on this version of cgroups")
	}
	e.Must(t, "run", "-d", "--name", "group", "--runtime", name, "busybox", "sleep", "1000")
	e.Must(t, "exec", "-d", "group", "sh", "-c", "sleep 4321 & exec sleep 1234")
	id := e.Must(t, "execs", "ls", "-q", "--no-trunc", "group")
	until(t, func() bool { return strings.Contains(e.Must(t, "top", "group"), "sleep 1234") })
	e.Must(t, "execs", "kill", id)
	until(t, func() bool {
		top := e.Must(t, "top", "group")
		return !strings.Contains(top, "4321") && !strings.Contains(top, "1234")
	})
	e.Must(t, "rm", "-f", "group")
}

func terminalOf(t *testing.T, e *harness.Engine, name string) {
	e.Must(t, "run", "-d", "-i", "-t", "--name", "term", "--runtime", name, "busybox", "sh")
	s := harness.Terminal(t, e.Command("attach", "term"))
	s.Resize(t, 33, 99)
	s.Type(t, "echo one-$((1+1)); tty\n")
	s.Expect(t, "one-2")
	s.Expect(t, "/dev/")
	s.Type(t, "until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done; echo sized-$((1+2))\n")
	s.Expect(t, "sized-3")
	s.Type(t, "exit 4\n")
	if code := s.Wait(t); code != 4 {
		t.Errorf("exit code %d, not 4", code)
	}
	e.Must(t, "rm", "term")
}

func restartOf(t *testing.T, e *harness.Engine, name string) {
	e.Must(t, "run", "-d", "--name", "again", "--restart", "on-failure:2", "--runtime", name, "busybox", "sh", "-c", "echo run; exit 3")
	until(t, func() bool {
		return e.Must(t, "inspect", "-f", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}", "again") == "exited 2 3"
	})
	if out := e.Must(t, "logs", "again"); out != "run\nrun\nrun" {
		t.Errorf("the log: %q", out)
	}
	e.Must(t, "rm", "again")
}

func memoryOf(t *testing.T, e *harness.Engine, name string) {
	r := e.Hezi("run", "--name", "hungry", "-m", "16m", "--memory-swap", "16m", "--runtime", name, "busybox", "sh", "-c", "tail /dev/zero; exit $?")
	if r.Code != 137 {
		t.Errorf("exit code %d, not 137: %s", r.Code, r.Err)
	}
	if got := e.Must(t, "inspect", "-f", "{{.State.OOMKilled}}", "hungry"); got != "true" {
		t.Errorf("OOMKilled is %s", got)
	}
	until(t, func() bool {
		return strings.Contains(e.Must(t, "events", "--since", "1m", "--until", "0s", "--filter", "event=oom", "--format", "{{.Actor.Attributes.name}}"), "hungry")
	})
	e.Must(t, "rm", "hungry")
}

func usersOf(t *testing.T, e *harness.Engine, name string) {
	out := e.Must(t, "run", "--rm", "--userns", "auto:size=65536", "-v", "/etc/mine", "--runtime", name, "busybox", "sh", "-c", "id -u; touch /x; stat -c %u /x /etc/passwd /etc/mine; grep -c 'eth0' /proc/net/dev; awk '{print $1, $3}' /proc/self/uid_map")
	if out != "0\n0\n0\n0\n1\n0 65536" {
		t.Errorf("in a user namespace: %q", out)
	}
	for range 2 { // a new volume, and one that is there
		out := e.Must(t, "run", "--rm", "--userns", "auto:size=65536", "-u", "5:6", "-v", "given:/etc:U", "--runtime", name, "busybox", "stat", "-c", "%u:%g", "/etc", "/etc/passwd")
		if out != "5:6\n5:6" {
			t.Errorf("a volume that is given to the user: %q", out)
		}
	}
	e.Must(t, "volume", "rm", "--now", "given")
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to be within a minute")
		}
	}
}

// TestRuntimesOfConfiguration: what daemon.json says of runtimes holds at once when
// it is read again, and what a runtime says of its failure reaches the client.
func TestRuntimesOfConfiguration(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sulky := script("sulky", "echo I sulk >&2\nexit 3\n")
	logs := script("logs", `while [ $# -gt 0 ]; do [ "$1" = --log ] && log=$2; shift; done
echo '{"level":"warning","msg":"nothing"}
{"level":"error","msg":"I say no"}' >$log; exit 1
`)
	silent := script("silent", "exit 0\n")
	passing := script("passing", "[ \"$1 $2\" = '--first second' ] || exit 9\nshift 2\nexec runc \"$@\"\n")
	declare := func(standard string, more map[string]any) string {
		all := map[string]any{"sulky": map[string]any{"path": sulky}, "logs": map[string]any{"path": logs}, "silent": map[string]any{"path": silent}, "gone": map[string]any{"path": "/nowhere/runtime"},
			"passing": map[string]any{"path": passing, "runtimeArgs": []string{"--first", "second"}}}
		for k, v := range more {
			all[k] = v
		}
		text, err := json.Marshal(map[string]any{"runtimes": all, "default-runtime": standard})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	e := configured(t, declare("", nil))
	for name, text := range map[string]string{
		"sulky": "OCI runtime create failed: I sulk", "logs": "OCI runtime create failed: I say no", "gone": "there is no such program", "silent": "did not write its pid file",
		"youki": "unknown or invalid runtime name: youki", "/usr/bin/true": "unknown or invalid runtime name: /usr/bin/true", "later": "unknown or invalid runtime name: later",
	} {
		if r := e.Hezi("run", "--rm", "--runtime", name, "busybox", "true"); r.Code != 125 || !strings.Contains(r.Err, text) {
			t.Errorf("--runtime %s: exit code %d, %q: want 125, %q", name, r.Code, r.Err, text)
		}
	}
	if out := e.Must(t, "run", "--rm", "--runtime", "passing", "busybox", "echo", "passed"); out != "passed" {
		t.Errorf("runtimeArgs: %q", out)
	}
	if out := e.Must(t, "run", "--rm", "--runtime", "runc", "busybox", "echo", "ours"); out != "ours" {
		t.Errorf("Docker's name of the runtime that it comes with: %q", out)
	}
	next := declare("later", map[string]any{"later": map[string]any{"runtimeType": "io.containerd.runc.v2", "options": map[string]any{"BinaryName": "runc"}}})
	if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(next), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return e.Must(t, "info", "-f", "{{.DefaultRuntime}}") == "later" })
	if out := e.Must(t, "info", "-f", "{{range $n, $r := .Runtimes}}{{$n}} {{end}}"); out != "gone hezi later logs passing silent sulky " {
		t.Errorf("info: %q", out)
	}
	e.Must(t, "run", "-d", "--name", "box", "busybox", "sleep", "1000")
	if out := e.Must(t, "inspect", "-f", "{{.HostConfig.Runtime}}", "box"); out != "later" {
		t.Errorf("the default runtime: %q", out)
	}
	if folders, _ := filepath.Glob(filepath.Join(e.Dir, "run/runtimes/[0-9a-f]*/runtime.json")); len(folders) != 1 {
		t.Errorf("the container was not started by another runtime: %q", folders)
	}
	e.Must(t, "rm", "-f", "box")
}
