package server

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/keeper"
)

// program writes a script that stands for a new keeper.
func program(t *testing.T, mode os.FileMode, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hezi-keeper")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestUpgradeToBroken: a new keeper that cannot take over is refused with a
// sentence that names it, and the old one serves on as before.
func TestUpgradeToBroken(t *testing.T) {
	b := newBed(t)
	b.start(b.request("a", "trap 'exit 3' TERM; while :; do sleep 0.1; done"))
	first := b.info()
	for name, path := range map[string]string{
		"exits": "/bin/false", "says nothing": "/bin/true", "missing": "/no/such/keeper",
		"not executable": program(t, 0o644, "#!/bin/sh\n"), "no program": program(t, 0o755, "\x7fELF rubbish"),
		"hangs":       program(t, 0o755, "#!/bin/sh\nexec sleep 1000\n"),
		"other state": program(t, 0o755, "#!/bin/sh\necho 'the state has version 7, this build reads up to 3' >&2; exit 1\n"),
	} {
		begin := time.Now()
		err := b.c.Upgrade(b.ctx, path)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "the old one serves on") {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(begin); d > validateTime+3*time.Second {
			t.Errorf("%s: it took %v", name, d)
		}
		if i := b.info(); i.PID != first.PID || i.Generation != 0 || !strings.Contains(i.UpgradeError, path) {
			t.Errorf("%s: %+v", name, i)
		}
	}
	b.start(b.request("b", "exit 4"))
	if e := b.wait("b"); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
	if err := b.c.Signal(b.ctx, "a", "", int(unix.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	if e := b.wait("a"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
}

// TestUpgradeExecFails: the binary vanishes after it has read the state. The old
// image goes on, and what it starts inherits nothing.
func TestUpgradeExecFails(t *testing.T) {
	b := newBed(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	conn := b.attach(keeper.AttachRequest{ContainerID: "a", NextStart: true}, "")
	b.start(b.request("a", "sleep 1.5; echo end; exit 6"))
	path := program(t, 0o755, fmt.Sprintf("#!/bin/sh\nrm \"$0\"\nexec %s \"$@\"\n", exe))
	err = b.c.Upgrade(b.ctx, path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "the old one serves on") {
		t.Fatalf("error %v", err)
	}
	b.start(b.request("fds", "ls -l /proc/self/fd"))
	if e := b.wait("fds"); e.Code != 0 {
		t.Fatalf("exit %+v", e)
	}
	if err := b.c.Forget(b.ctx, "fds", false); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(b.log("fds")); strings.Count(got, "\n") != 4 { // a total, three streams and that of ls
		t.Errorf("a program started afterwards has descriptors:\n%s", got)
	}
	if out, _ := demux(t, conn); string(out) != "end\n" {
		t.Errorf("the attached client got %q", out)
	}
	if e := b.wait("a"); e.Code != 6 {
		t.Errorf("exit %+v", e)
	}
}

// TestUpgradeDiesTakingOver: the new image reads the state and then fails. The
// holder starts its own program, and no container is lost.
func TestUpgradeDiesTakingOver(t *testing.T) {
	b := newBed(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.start(b.request("a", "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.03; done; exit 7"))
	path := program(t, 0o755, fmt.Sprintf("#!/bin/sh\n[ $1 = check-state ] || exit 1\nexec %s \"$@\"\n", exe))
	for range 2 {
		err := b.c.Upgrade(b.ctx, path)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "the containers run on") {
			t.Fatalf("error %v", err)
		}
	}
	b.kill(b.info().PID)
	if e := b.wait("a"); e.Code != 7 {
		t.Errorf("exit %+v", e)
	}
	if err := b.c.Forget(b.ctx, "a", false); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(b.log("a"), "\n"); got != 100 {
		t.Errorf("%d lines in the log, not 100", got)
	}
	if err := b.c.Upgrade(b.ctx, exe); err != nil {
		t.Errorf("a sound keeper is refused afterwards: %v", err)
	}
}

// TestUpgradeBeforeAttach: an exec whose client is about to attach keeps its
// output until it does, over a replacement too.
func TestUpgradeBeforeAttach(t *testing.T) {
	b := newBed(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.start(b.request("a", "exec sleep 100"))
	if _, err := b.c.Exec(b.ctx, keeper.ExecRequest{ContainerID: "a", ExecID: "x", AwaitAttach: true,
		Process: box.Process{Args: []string{"echo", "said"}, AttachStdout: true}}); err != nil {
		t.Fatal(err)
	}
	if err := b.c.Upgrade(b.ctx, exe); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if out, _ := demux(t, b.attach(keeper.AttachRequest{ContainerID: "a", ExecID: "x"}, "")); string(out) != "said\n" {
		t.Errorf("%q", out)
	}
}

// TestStateVersions: every state that a build of the two versions before has
// written is read, with all that it says; testdata has one for each version.
func TestStateVersions(t *testing.T) {
	for v := max(stateVersion-2, 1); v <= stateVersion; v++ {
		raw, err := os.ReadFile(fmt.Sprintf("testdata/state-v%d.json", v))
		if err != nil {
			t.Fatal(err)
		}
		st, err := parseState(raw)
		if err != nil {
			t.Fatalf("version %d: %v", v, err)
		}
		again, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		var was, is map[string]any
		if err := json.Unmarshal(raw, &was); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &is); err != nil {
			t.Fatal(err)
		}
		for key, want := range was {
			if got := is[key]; !covers(want, got) {
				t.Errorf("version %d: %s is read as %v, written as %v", v, key, got, want)
			}
		}
	}
	for _, v := range []int{stateVersion + 1, stateVersion - 3} {
		if _, err := parseState(fmt.Appendf(nil, `{"Version":%d}`, v)); err == nil || !strings.Contains(err.Error(), "version") {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

// covers says whether got has all that want has.
func covers(want, got any) bool {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		for k, v := range w {
			ok = ok && covers(v, g[k])
		}
		return ok
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range w {
			ok = ok && covers(w[i], g[i])
		}
		return ok
	}
	return reflect.DeepEqual(want, got)
}

// TestStartDuringUpgrade: what is started while the keeper replaces itself
// waits for the next image, and no start is refused.
func TestStartDuringUpgrade(t *testing.T) {
	b := newBed(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.start(b.request("base", "exec sleep 100"))
	stop, upgraded := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				upgraded <- n
				return
			default:
			}
			if err := b.c.Upgrade(b.ctx, exe); err != nil {
				t.Errorf("upgrade %d: %v", n, err)
			}
		}
	}()
	for i := range 15 {
		id := fmt.Sprint("box", i)
		if _, err := b.c.Start(b.ctx, b.request(id, "exit 5")); err != nil {
			t.Errorf("start %d: %v", i, err)
			continue
		}
		if _, err := b.c.Exec(b.ctx, keeper.ExecRequest{ContainerID: "base", ExecID: id, Process: box.Process{Args: []string{"true"}}}); err != nil {
			t.Errorf("exec %d: %v", i, err)
		}
		if e := b.wait(id); e.Code != 5 {
			t.Errorf("exit %d: %+v", i, e)
		}
	}
	close(stop)
	if n := <-upgraded; n < 3 {
		t.Errorf("%d upgrades only", n)
	}
}
