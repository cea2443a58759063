package box

import (
	"os"
	"path/filepath"
	"strconv"
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
		n := 0
		for range 300 {
			if n = len(cgroup.Processes(dir)); n == 3 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n != 3 {
			t.Errorf("exec %d: %d processes in its group", i, n)
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
	if left, _ := filepath.Glob(cgroup.Inner(box.CgroupPaths, "*-*")); len(left) > 0 {
		t.Errorf("groups are left: %v", left)
	}
}
