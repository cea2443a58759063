package box

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// standbyOf is the box's standby, once it is made.
func standbyOf(t *testing.T, box *Proc) *standby {
	t.Helper()
	testRuntime.standby.mu.Lock()
	b := testRuntime.standby.by[box.CgroupPaths["pids"]]
	testRuntime.standby.mu.Unlock()
	if b == nil {
		t.Fatal("the box has no standby")
	}
	<-b.made
	return b
}

// parked starts a box that has a standby, and gives the exec that left it.
func parked(t *testing.T) (*Proc, Process) {
	t.Helper()
	spec := boxSpec(t, image(t), "sleep", "100")
	box := start(t, spec)
	if box.CgroupPaths["pids"] == "" {
		t.Skip("cgroup v2 has no standbys: an exec is born in the cgroup")
	}
	p := spec.Process
	p.Args = []string{"true"}
	execIn(t, box, &p)
	awaitMembers(t, box, 2)
	standbyOf(t, box)
	return box, p
}

// within fails when f takes longer.
func within(t *testing.T, most time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	began := time.Now()
	go func() { defer close(done); f() }()
	select {
	case <-done:
		if took := time.Since(began); took > most {
			t.Errorf("%s took %v, more than %v", what, took, most)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// attributes prints what an exec can have that another has not.
const attributes = `umask; id; pwd; env | grep -v ^PWD; ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; tty; grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; ls /proc/self/fd; for n in /proc/$$/ns/*; do readlink $n; done; cat /proc/self/cgroup`

// TestStandbyAttributes: an exec that differs in everything from those around
// it is the same by a standby as by an init of its own, and leaves no trace.
func TestStandbyAttributes(t *testing.T) {
	box, plain := parked(t)
	plain.Args = []string{"sh", "-c", attributes}
	rich := plain
	umask, adj := uint32(0o077), 300
	rich.User, rich.AdditionalGroups, rich.Cwd = "ann", []string{"audio"}, "/tmp"
	rich.Env = append(plain.Env[:len(plain.Env):len(plain.Env)], "ONLY=rich")
	rich.Umask, rich.OOMScoreAdj, rich.NoNewPrivileges = &umask, &adj, true
	rich.Rlimits = []Rlimit{{Type: "RLIMIT_NOFILE", Soft: 99, Hard: 99}, {Type: "RLIMIT_CORE"}}
	rich.Capabilities = Capabilities{Bounding: dockerCaps[:2]}
	fresh := func(p Process) string {
		testRuntime.Leave(box.CgroupPaths)
		out, code := execIn(t, box, &p)
		if code != 0 {
			t.Fatalf("exit code %d, output %q", code, out)
		}
		return out
	}
	byStandby := func(p Process) string {
		awaitMembers(t, box, 2)
		pid := standbyOf(t, box).child.pid
		out, _ := execIn(t, box, &p)
		if unix.Kill(pid, 0) != unix.ESRCH {
			t.Fatal("the standby was not used")
		}
		return out
	}
	wantPlain, wantRich := fresh(plain), fresh(rich)
	if wantPlain == wantRich || !strings.Contains(wantRich, "ONLY=rich") || !strings.Contains(wantRich, "\n300\n") {
		t.Fatalf("the two execs do not differ as they should: %q and %q", wantPlain, wantRich)
	}
	for range 2 {
		if got := byStandby(rich); got != wantRich {
			t.Errorf("by a standby %q, by an init of its own %q", got, wantRich)
		}
		if got := byStandby(plain); got != wantPlain {
			t.Errorf("after another exec %q, by an init of its own %q", got, wantPlain)
		}
	}
}

// TestStandbyStill: a standby that does not answer costs a moment, not the exec.
func TestStandbyStill(t *testing.T) {
	box, p := parked(t)
	c := standbyOf(t, box).child
	if err := unix.PidfdSendSignal(rawFD(c.pidfd), unix.SIGSTOP, nil, 0); err != nil {
		t.Fatal(err)
	}
	p.Args = []string{"sh", "-c", "echo once >> /tmp/runs; wc -l < /tmp/runs"}
	within(t, standbyWord+time.Second, "an exec", func() {
		if out, code := execIn(t, box, &p); code != 0 || strings.TrimSpace(out) != "1" {
			t.Errorf("exit code %d, output %q: the program must run once", code, out)
		}
	})
	if unix.Kill(c.pid, 0) != unix.ESRCH {
		t.Error("the standby that stood still was left")
	}
}

// TestStandbyFrozen: nobody waits for a standby that cannot die yet.
func TestStandbyFrozen(t *testing.T) {
	box, _ := parked(t)
	state := filepath.Join(box.CgroupPaths["freezer"], "freezer.state")
	write(t, state, "FROZEN", 0)
	t.Cleanup(func() { write(t, state, "THAWED", 0) })
	for range 100 {
		if text, _ := os.ReadFile(state); strings.TrimSpace(string(text)) == "FROZEN" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	within(t, endTime+time.Second, "leaving a frozen box", func() { testRuntime.Leave(box.CgroupPaths) })
	write(t, state, "THAWED", 0)
	awaitMembers(t, box, 1)
}

// TestStandbyLeave: an exec does not hold up the removal that follows it, and
// one that returns after the removal makes no standby.
func TestStandbyLeave(t *testing.T) {
	box, p := parked(t)
	testRuntime.Leave(box.CgroupPaths)
	execIn(t, box, &p) // its standby waits for its moment
	within(t, poolLull/2, "leaving just after an exec", func() { testRuntime.Leave(box.CgroupPaths) })
	key := box.CgroupPaths["pids"]
	gone := start(t, boxSpec(t, image(t), "true"))
	if !ended(rawFD(gone.PidFD), 5*time.Second) {
		t.Fatal("the box did not end")
	}
	testRuntime.standby.prepare(testRuntime, key, box.CgroupPaths, true, rawFD(gone.PidFD))
	testRuntime.standby.mu.Lock()
	defer testRuntime.standby.mu.Unlock()
	if testRuntime.standby.by[key] != nil {
		t.Error("a box that has ended has an entry, which nobody removes")
	}
}

// TestStandbyFails: what cannot be made leaves no entry.
func TestStandbyFails(t *testing.T) {
	box, _ := parked(t)
	paths := map[string]string{"pids": filepath.Join(t.TempDir(), "removed")}
	testRuntime.standby.prepare(testRuntime, paths["pids"], paths, false, rawFD(box.PidFD))
	for range 100 {
		testRuntime.standby.mu.Lock()
		b := testRuntime.standby.by[paths["pids"]]
		testRuntime.standby.mu.Unlock()
		if b == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the entry stays")
}

// TestStandbyEvict: the oldest makes room.
func TestStandbyEvict(t *testing.T) {
	s := newStandbys()
	made := make(chan struct{})
	close(made)
	for i := range standbyMost {
		s.by[string(rune('A'+i))] = &standby{since: time.Unix(int64(1000-i), 0), drop: make(chan struct{}), made: made}
	}
	s.mu.Lock()
	s.evict()
	s.mu.Unlock()
	if oldest := string(rune('A' + standbyMost - 1)); len(s.by) != standbyMost-1 || s.by[oldest] != nil {
		t.Errorf("%d standbys are left, the oldest among them: %v", len(s.by), s.by[oldest] != nil)
	}
}

// TestStandbyBoxEnds: a standby does not keep the cgroup of a box that ended.
func TestStandbyBoxEnds(t *testing.T) {
	spec := boxSpec(t, image(t), "sleep", "100")
	box, err := testRuntime.Start(t.Context(), spec, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	p := spec.Process
	p.Args = []string{"true"}
	execIn(t, box, &p)
	if box.CgroupPaths["pids"] != "" {
		awaitMembers(t, box, 2)
	}
	_ = unix.PidfdSendSignal(rawFD(box.PidFD), unix.SIGKILL, nil, 0)
	await(t, box)
	removeGroup(t, box)
}

// TestStandbyHundred: a hundred execs leave no process and no descriptor.
func TestStandbyHundred(t *testing.T) {
	box, p := parked(t)
	testRuntime.Leave(box.CgroupPaths)
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	time.Sleep(200 * time.Millisecond) // the pool of starts settles
	before := count()
	for i := range 100 {
		if i%10 == 0 {
			time.Sleep(poolLull + 30*time.Millisecond) // the next one is a standby's
		}
		execIn(t, box, &p)
	}
	testRuntime.Leave(box.CgroupPaths)
	awaitMembers(t, box, 1)
	if after := count(); after > before {
		t.Errorf("%d descriptors before a hundred execs, %d after", before, after)
	}
	var info unix.Siginfo
	for { // what has ended and was not reaped
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && info.Signo != 0 {
			t.Error("a process was not reaped")
		}
		break
	}
}
