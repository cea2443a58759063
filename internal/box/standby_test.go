package box

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// members are the processes in a box's cgroup.
func members(t *testing.T, box *Proc) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(box.CgroupPaths["pids"], "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func awaitMembers(t *testing.T, box *Proc, want int) []string {
	t.Helper()
	var got []string
	for range 300 {
		if got = members(t, box); len(got) == want {
			return got
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d processes in the cgroup, not %d", len(got), want)
	return nil
}

// TestStandby: an exec is followed by an init that waits in the cgroup; the
// next exec is that one's and has nothing of the first; a killed one is
// replaced; none is left when the box goes.
func TestStandby(t *testing.T) {
	spec := boxSpec(t, image(t), "sleep", "100")
	box := start(t, spec)
	if box.CgroupPaths["pids"] == "" {
		t.Skip("cgroup v2 has no standbys: an exec is born in the cgroup")
	}
	first, second := spec.Process, spec.Process
	first.Args = []string{"sh", "-c", "cd /; umask; id -u; pwd; echo $A; ls /proc/self/fd"}
	first.Env, first.User, first.Cwd = append(first.Env[:len(first.Env):len(first.Env)], "A=first"), "33:33", "/tmp"
	second.Args = first.Args
	want, _ := execIn(t, box, &second) // by an init of its own
	awaitMembers(t, box, 2)
	if out, code := execIn(t, box, &first); code != 0 || !strings.Contains(out, "\n33\n") {
		t.Fatalf("by a standby: exit code %d, output %q", code, out)
	}
	awaitMembers(t, box, 2)
	if got, _ := execIn(t, box, &second); got != want {
		t.Errorf("by a standby %q, by an init of its own %q", got, want)
	}
	awaitMembers(t, box, 2)
	testRuntime.standby.mu.Lock()
	b := testRuntime.standby.by[box.CgroupPaths["pids"]]
	testRuntime.standby.mu.Unlock()
	<-b.made
	if err := unix.PidfdSendSignal(rawFD(b.child.pidfd), unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if got, _ := execIn(t, box, &second); got != want {
		t.Errorf("after its standby was killed: %q, want %q", got, want)
	}
	awaitMembers(t, box, 2)
	testRuntime.Leave(box.CgroupPaths)
	awaitMembers(t, box, 1)
	if err := os.WriteFile(filepath.Join(box.CgroupPaths["pids"], "pids.max"), []byte("50"), 0); err != nil {
		t.Fatal(err)
	}
	execIn(t, box, &second)
	time.Sleep(3 * poolLull)
	if list := members(t, box); len(list) != 1 {
		t.Errorf("a box with a limit of processes has %d in its cgroup", len(list))
	}
}
