package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hezi/test/harness"
)

// killed ends processes with SIGKILL; 0 is none.
func killed(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if pid == 0 {
			t.Fatal("a process to kill was not found")
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// running waits until n processes whose command line has text run.
func running(t *testing.T, text string, n int) {
	t.Helper()
	got := -1
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		got = 0
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), text) {
				got++
			}
		}
		if got == n {
			return
		}
	}
	t.Errorf("%d processes run %q, not %d", got, text, n)
}

// TestKillKeeperAndHolder kills all that holds containers, with hezid and
// without: the containers run on, what they write afterwards is kept, their
// exit codes are known, and they are stopped and removed as ever.
func TestKillKeeperAndHolder(t *testing.T) {
	for _, hezidToo := range []bool{false, true} {
		t.Run(fmt.Sprintf("hezid=%v", hezidToo), func(t *testing.T) {
			e := start(t)
			e.Must(t, "run", "--rm", "busybox", "true")
			before := e.Count()
			mark := fmt.Sprintf("mark%d", time.Now().UnixNano())
			e.Must(t, "run", "-d", "--name", "slow", "busybox", "sh", "-c", "while [ ! -f /go ]; do sleep 0.1; done; for i in 1 2 3 4; do sleep 0.1; echo $i; done; exit 6")
			e.Must(t, "run", "-d", "--name", "quiet", "busybox", "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.1; : "+mark+"; done")
			e.Must(t, "run", "-d", "--name", "frozen", "busybox", "sleep", "1000")
			e.Must(t, "pause", "frozen")
			e.Must(t, "run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", "while :; do sleep 0.05; yes | head -c 70000; done")
			keeper, holder := e.Keeper()
			killed(t, keeper, holder)
			if hezidToo {
				e.Kill()
				if err := e.Up(); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"slow", "quiet"} {
				if got := e.Must(t, "exec", name, "echo", "inside"); got != "inside" {
					t.Errorf("exec in %s: %q", name, got)
				}
			}
			running(t, mark, 1)
			e.Must(t, "exec", "slow", "touch", "/go")
			if got := e.Must(t, "run", "--rm", "busybox", "echo", "another"); got != "another" {
				t.Errorf("run: %q", got)
			}
			if got := e.Must(t, "inspect", "-f", "{{.State.Status}}", "frozen"); got != "paused" {
				t.Errorf("the paused container is %s", got)
			}
			e.Must(t, "unpause", "frozen")
			e.Must(t, "stop", "-t", "5", "quiet")
			if got := e.Must(t, "wait", "slow"); got != "6" {
				t.Errorf("exit code %s, not 6: %s", got, e.Must(t, "inspect", "-f", "{{.State.Error}}", "slow"))
			}
			if got := e.Must(t, "logs", "slow"); got != "1\n2\n3\n4" {
				t.Errorf("log %q", got)
			}
			if got := e.Must(t, "inspect", "-f", "{{.State.ExitCode}}", "quiet"); got != "4" {
				t.Errorf("exit code of stop: %s", got)
			}
			for deadline := time.Now().Add(10 * time.Second); e.Must(t, "inspect", "-f", "{{.State.Running}}", "again") != "true"; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the restart policy did not act")
				}
			}
			e.Must(t, "rm", "-f", "slow", "quiet", "frozen", "again")
			running(t, mark, 0)
			e.NothingLeft(t, before, 4)
		})
	}
}

// TestExecsOfTheLost: an exec that runs is known by its process to the next hezid;
// one that keeper and holder take along is not shown as running for ever.
func TestExecsOfTheLost(t *testing.T) {
	for _, hezidToo := range []bool{false, true} {
		t.Run(fmt.Sprintf("hezid=%v", hezidToo), func(t *testing.T) {
			e := start(t)
			e.Must(t, "run", "-d", "--name", "box", "--health-cmd", "sleep 704; true", "--health-interval", "50ms", "--health-timeout", "1h", "busybox", "sleep", "1000")
			e.Must(t, "exec", "-d", "box", "sleep", "703")
			running(t, "sleep 704; true", 1)
			e.Kill()
			if err := e.Up(); err != nil {
				t.Fatal(err)
			}
			list := func() string {
				return e.Must(t, "execs", "ls", "--no-trunc", "--format", `{{if eq .Command "\"sleep 703\""}}{{.ID}} {{.PID}} {{.Status}} {{.Processes}}{{end}}`)
			}
			f := strings.Fields(list())
			if len(f) != 4 || f[2] != "Running" || f[3] != "1" {
				t.Fatalf("after the end of hezid: %q", f)
			}
			id := f[0]
			if b, err := os.ReadFile("/proc/" + f[1] + "/cmdline"); err != nil || string(b) != "sleep\x00703\x00" {
				t.Errorf("the exec has the process %s: %q, %v", f[1], b, err)
			}
			keeper, holder := e.Keeper()
			if err := syscall.Kill(holder, syscall.SIGSTOP); err != nil { // or it may save them yet
				t.Fatal(err)
			}
			killed(t, keeper, holder)
			if hezidToo {
				e.Kill()
				if err := e.Up(); err != nil {
					t.Fatal(err)
				}
			}
			want := id + " 0 Exited (255) 1"
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				got := list()
				if got == want {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("after the end of keeper and holder: %q, not %q", got, want)
				}
			}
			e.Must(t, "execs", "kill", id)
			for deadline := time.Now().Add(20 * time.Second); list() != ""; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("after a kill: %q", list())
				}
			}
			if got := e.Must(t, "inspect", "-f", "{{len .ExecIDs}}", "box"); got != "0" && got != "1" { // the check of now
				t.Errorf("%s execs run", got)
			}
			e.Must(t, "rm", "-f", "box")
		})
	}
}

// TestOOMWhileAway: a process that the kernel kills for lack of memory while hezid
// is away is told by the next one, though the container runs on.
func TestOOMWhileAway(t *testing.T) {
	e := start(t)
	e.Must(t, "run", "-d", "--name", "box", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c",
		"while [ ! -e /go ]; do sleep 0.1; done; (a=x; while :; do a=$a$a; done); touch /killed; sleep 1000")
	pid := e.Must(t, "inspect", "-f", "{{.State.Pid}}", "box")
	e.Kill()
	if err := os.WriteFile("/proc/"+pid+"/root/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid + "/root/killed"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was killed within a minute")
		}
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if got := e.Must(t, "inspect", "-f", "{{.State.OOMKilled}} {{.State.Status}}", "box"); got != "true running" {
		t.Errorf("the container is %s", got)
	}
	time.Sleep(time.Second) // --until is cut to whole seconds
	if got := e.Must(t, "events", "--since", "5m", "--until", "0s", "--filter", "container=box", "--format", "{{.Action}}"); got != "oom" {
		t.Errorf("the events are %q", got)
	}
	e.Must(t, "rm", "-f", "box")
}

// TestLogIsGone kills what holds a container whose log cannot be opened any more:
// it runs on, and is neither ended nor stopped by a full pipe.
func TestLogIsGone(t *testing.T) {
	e := start(t)
	for _, both := range []bool{false, true} {
		dir := t.TempDir()
		id := e.Must(t, "run", "-d", "-v", dir+":/host", "busybox", "sh", "-c", "while [ ! -f /host/go ]; do sleep 0.1; done; yes | head -c 300000; exit 6")
		log := filepath.Join(e.Dir, "data", "containers", id, id+"-json.log")
		if err := os.Remove(log); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(log, 0o700); err != nil {
			t.Fatal(err)
		}
		keeper, holder := e.Keeper()
		if killed(t, keeper); both {
			killed(t, holder)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			out, err := os.ReadFile(filepath.Join(e.Dir, "run", "keeper", "keeper.log"))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(out), `cannot be opened again: it runs on, and its output is not kept" container=`+id) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the keeper does not say within 10 s that the log is gone: %s", out)
			}
		}
		time.Sleep(50 * time.Millisecond) // it is held a moment after that
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := e.Must(t, "wait", id); got != "6" {
			t.Errorf("both=%t: exit code %s, not 6: %s", both, got, e.Must(t, "inspect", "-f", "{{.State.Error}}", id))
		}
		e.Must(t, "rm", id)
	}
}

// TestKeeperKilledInRow kills the keeper ten times, as fast as it comes back.
func TestKeeperKilledInRow(t *testing.T) {
	e := start(t)
	wait := follow(t, e.Command("run", "--name", "first", "busybox", "echo", "x"))
	if _, err := wait(); err != nil {
		t.Fatal(err)
	}
	before := e.Count()
	e.Must(t, "run", "-d", "--name", "box", "busybox", "sh", "-c", counting)
	e.Must(t, "run", "-d", "-t", "--name", "term", "busybox", "sh", "-c", "sleep 4; exit 8")
	last := 0
	for range 10 {
		keeper := 0
		for deadline := time.Now().Add(10 * time.Second); keeper == 0 || keeper == last; time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the keeper did not come back")
			}
			keeper, _ = e.Keeper()
		}
		killed(t, keeper)
		last = keeper
	}
	if got := e.Must(t, "exec", "box", "echo", "inside"); got != "inside" {
		t.Errorf("exec: %q", got)
	}
	for name, want := range map[string]string{"box": "9", "term": "8"} {
		if got := e.Must(t, "wait", name); got != want {
			t.Errorf("exit code of %s: %s, not %s", name, got, want)
		}
	}
	complete(t, "the log", e.Must(t, "logs", "box"))
	e.Must(t, "rm", "box", "term")
	e.NothingLeft(t, before, 4)
}

// TestKillAtBadMoments kills the keeper while it starts, runs execs and removes:
// each request succeeds or says what went wrong, and nothing runs on unknown.
func TestKillAtBadMoments(t *testing.T) {
	e := start(t)
	e.Must(t, "run", "--rm", "busybox", "true")
	before := e.Count()
	mark := fmt.Sprintf("moment%d", time.Now().UnixNano())
	e.Must(t, "run", "-d", "--name", "base", "busybox", "sleep", "1000")
	during := func(i int, args ...string) harness.Result {
		t.Helper()
		keeper, _ := e.Keeper()
		for i := 0; keeper == 0 && i < 500; i++ { // the one before was killed just now
			time.Sleep(10 * time.Millisecond)
			keeper, _ = e.Keeper()
		}
		cmd := e.Command(args...)
		var out, errOut strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 2 * time.Millisecond)
		killed(t, keeper)
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil && errOut.Len() == 0 {
				t.Errorf("%v: exit %d without a word", args, exitCode(err))
			}
			return harness.Result{Out: out.String(), Err: errOut.String(), Code: exitCode(err)}
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Fatalf("%v did not end", args)
		}
		return harness.Result{}
	}
	for i := range 12 {
		name := "box" + strconv.Itoa(i)
		r := during(i, "run", "-d", "--name", name, "busybox", "sh", "-c", "while :; do sleep 0.1; : "+mark+name+"; done")
		if r.Code != 0 {
			running(t, mark+name, 0) // a start that failed leaves nothing
			e.Hezi("start", name)    // it may never have been made
		}
		n := 0
		if s := e.Hezi("inspect", "-f", "{{.State.Running}}", name); strings.TrimSpace(s.Out) == "true" {
			n = 1
		}
		running(t, mark+name, n)
		during(i, "exec", "-d", "base", "sh", "-c", "while :; do sleep 0.1; : "+mark+"exec; done")
		during(i, "rm", "-f", name)
		e.Hezi("rm", "-f", name)
		running(t, mark+name, 0)
	}
	e.Must(t, "rm", "-f", "base")
	running(t, mark, 0)
	e.NothingLeft(t, before, 4)
}

// build makes hezid and hezi-keeper of another version.
func build(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X hezi/internal/version.Version="+version, "-o", dir, "./cmd/hezid", "./cmd/hezi-keeper")
	cmd.Dir, cmd.Env = harness.Repo(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestUpgrade: a hezid of a newer version has the keeper replace itself, in
// place and unasked, under a terminal, flowing output, standard input, a wait
// and followed logs; broken keepers are refused and the old one serves on.
func TestUpgrade(t *testing.T) {
	dir := build(t, "newer")
	e := start(t)
	attached := follow(t, e.Command("run", "--name", "box", "busybox", "sh", "-c", counting))
	followed := follow(t, e.Command("logs", "-f", "box"))
	waited := e.Command("wait", "box")
	var code strings.Builder
	waited.Stdout = &code
	if err := waited.Start(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "run", "-d", "-i", "-t", "--name", "term", "busybox", "sh")
	s := harness.Terminal(t, e.Command("attach", "term"))
	s.Type(t, "echo one-$((1+1))\n")
	s.Expect(t, "one-2")
	piped := e.Command("run", "-i", "--rm", "busybox", "cat")
	in, err := piped.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "before")
	echoed := follow(t, piped)

	keeper, _ := e.Keeper()
	e.Down()
	e.UseBin(dir)
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if now, _ := e.Keeper(); now != keeper {
		t.Errorf("the keeper is process %d, was %d: it was not replaced in place", now, keeper)
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", keeper)); err != nil || exe != filepath.Join(dir, "hezi-keeper") {
		t.Errorf("the keeper runs %s, %v", exe, err)
	}
	s.Type(t, "echo two-$((1+2))\n")
	s.Expect(t, "two-3")
	fmt.Fprintln(in, "after")
	in.Close()
	if out, err := echoed(); err != nil || out != "before\nafter\n" {
		t.Errorf("standard input over the replacement: %q, %v", out, err)
	}
	out, err := attached()
	complete(t, "the attached client", out)
	if exitCode(err) != 9 {
		t.Errorf("run: %v", err)
	}
	out, err = followed()
	complete(t, "logs -f", out)
	if err != nil {
		t.Errorf("logs -f: %v", err)
	}
	complete(t, "the log", e.Must(t, "logs", "box"))
	if err := waited.Wait(); err != nil || code.String() != "9\n" {
		t.Errorf("wait: %q, %v", code.String(), err)
	}

	for name, script := range map[string]string{
		"ends": "#!/bin/sh\necho broken >&2; exit 1\n", "hangs": "#!/bin/sh\nexec sleep 1000\n",
		"fails later": "#!/bin/sh\n[ $1 = check-state ] || exit 1\nexec " + filepath.Join(dir, "hezi-keeper") + " \"$@\"\n",
	} {
		broken := t.TempDir()
		if err := os.Link(filepath.Join(harness.Bin(), "hezid"), filepath.Join(broken, "hezid")); err != nil {
			if out, err := exec.Command("cp", filepath.Join(harness.Bin(), "hezid"), broken).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
		}
		if err := os.WriteFile(filepath.Join(broken, "hezi-keeper"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		e.Down()
		e.UseBin(broken)
		if err := e.Up(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		log, err := os.ReadFile(filepath.Join(e.Dir, "hezid.log"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(log), "hezi-keeper was not replaced") || !strings.Contains(string(log), broken) {
			t.Errorf("%s: hezid does not say why the keeper was not replaced", name)
		}
		if got := e.Must(t, "run", "--rm", "busybox", "echo", "serves"); got != "serves" {
			t.Errorf("%s: %q", name, got)
		}
		if got := e.Must(t, "exec", "term", "echo", "inside"); got != "inside" {
			t.Errorf("%s: %q", name, got)
		}
	}
	e.Must(t, "rm", "-f", "box", "term")
}
