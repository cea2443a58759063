package box

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hezi/internal/box/cgroup"

	"golang.org/x/sys/unix"
)

// TestExecGroup: an exec has a group of its own, by a standby and without; all in
// it are found and killed; a failed one leaves none, and a rare one no standby.
func TestExecGroup(t *testing.T) {
	spec := boxSpec(t, image(t), "sleep", "1000")
	box := start(t, spec)
	for i := range 3 {
		p := spec.Process
		p.Args, p.Group = []string{"sh", "-c", "(setsid sleep 500 &); sleep 501; true"}, cgroup.ExecName(strconv.Itoa(i))
		e, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		dir := cgroup.Inner(box.CgroupPaths, p.Group)
		all := false
		for range 1000 { // three is also the shell, the one in between and its child
			if all = runsAll(cgroup.Processes(dir), "sleep\x00500\x00", "sleep\x00501\x00", "sh\x00"); all {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !all {
			t.Errorf("exec %d: %v are in its group", i, cgroup.Processes(dir))
		}
		if killed, err := cgroup.SignalAll(dir, unix.SIGKILL); err != nil || killed != 3 {
			t.Errorf("exec %d: %d killed, %v", i, killed, err)
		}
		await(t, e)
		gone := false
		for range 300 { // what is killed needs a moment
			if gone = cgroup.RemoveInner(dir); gone {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !gone {
			t.Errorf("exec %d: its group stays, with %v", i, cgroup.Processes(dir))
		}
		time.Sleep(3 * poolLull) // for the next one's standby
	}
	p := spec.Process
	p.Args, p.Group = []string{"/nosuch"}, cgroup.ExecName("failed")
	if _, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{}); err == nil {
		t.Error("a program that is not there")
	}
	if _, err := os.Stat(cgroup.Inner(box.CgroupPaths, p.Group)); !os.IsNotExist(err) {
		t.Errorf("the group of a failed exec: %v", err)
	}
	testRuntime.Leave(box.CgroupPaths)
	p.Args, p.Group, p.Rare = []string{"true"}, cgroup.ExecName("rare"), true
	e, err := testRuntime.Exec(t.Context(), box.PID, box.PidFD, box.CgroupPaths, &p, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	await(t, e)
	cgroup.RemoveInner(cgroup.Inner(box.CgroupPaths, p.Group))
	time.Sleep(3 * poolLull)
	var left []string
	for range 300 { // those that Leave has ended need a moment
		if left, _ = filepath.Glob(cgroup.Inner(box.CgroupPaths, "*-*")); len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("groups are left: %v", left)
}

// runsAll says whether processes are those with these beginnings of command lines, no
// more.
func runsAll(pids []int, want ...string) bool {
	if len(pids) != len(want) {
		return false
	}
	for _, w := range want {
		if !slices.ContainsFunc(pids, func(pid int) bool {
			line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			return err == nil && strings.HasPrefix(string(line), w)
		}) {
			return false
		}
	}
	return true
}
