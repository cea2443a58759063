package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInnerMountedOver: whoever mounts over a group inside a container's, or over
// the container's own, or puts a link there, leads nothing anywhere else.
func TestInnerMountedOver(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		dir, err := MakeInner(g.Paths(), ExecName("x"))
		if err != nil {
			t.Fatal(err)
		}
		if dir == "" {
			t.Skip("this host has neither cgroup v2 nor v1's freezer, where an exec has a group")
		}
		victim := inside(t, g, "sleep")
		other := t.TempDir()
		trap := func(at string) {
			for _, below := range []string{"exec-x/inner", "exec-y", "inner"} {
				if err := os.MkdirAll(filepath.Join(at, below), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, below := range []string{".", "exec-x"} {
				if err := os.WriteFile(filepath.Join(at, below, "cgroup.procs"), fmt.Appendln(nil, victim.Process.Pid), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		trap(other)
		aside := create(t, d, Resources{}, Devices{})
		beside := inside(t, aside, "sleep")
		key, _ := InnerHierarchy(g.Paths())
		if _, err := MakeInner(aside.Paths(), ExecName("x")); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(aside.Paths()[key], g.Paths()[key], "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if RemoveInner(dir) {
			t.Error("another container's group is removed")
		}
		newcomer := spawn(t, "sleep")
		trapped := func(name string, into ...string) {
			for _, inner := range into {
				if Join(map[string]string{key: g.Paths()[key]}, inner, newcomer.Process.Pid) == nil {
					t.Errorf("%s: something else is entered as %q", name, inner)
				}
				if fd, err := OpenJoin(map[string]string{"": g.Paths()[key]}, inner); err == nil {
					t.Errorf("%s: something else is opened as %q", name, inner)
					unix.Close(fd)
				}
				if inner == "" && Delegate(g.Paths()[key], 1234, 1234) == nil {
					t.Errorf("%s: something else is given away", name)
				}
			}
		}
		trapped("another's", "", ExecName("x"))
		if err := unix.Unmount(g.Paths()[key], unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(beside.Process.Pid, 0); err != nil {
			t.Error(err)
		}
		for name, at := range map[string]string{"the group": dir, "the container's": filepath.Dir(dir)} {
			if err := unix.Mount(other, at, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			if pids := Processes(dir); len(pids) > 0 {
				t.Errorf("%s: processes %v", name, pids)
			}
			if n, err := SignalAll(dir, unix.SIGKILL); n > 0 || err == nil {
				t.Errorf("%s: %d killed, %v", name, n, err)
			}
			if RemoveInner(dir) {
				t.Errorf("%s: removed", name)
			}
			trapped(name, ExecName("x"))
			if at != dir {
				trapped(name, "")
				if list := Inners(g.Paths()); len(list) > 0 {
					t.Errorf("%s: %v", name, list)
				}
				if _, err := MakeInner(g.Paths(), ExecName("z")); err == nil {
					t.Errorf("%s: made", name)
				}
			}
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			for _, below := range []string{"exec-x/inner", "exec-y", "inner"} {
				if _, err := os.Stat(filepath.Join(other, below)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := os.Stat(filepath.Join(other, "exec-z")); err == nil {
				t.Errorf("%s: a directory was made elsewhere", name)
			}
		}
		if err := unix.Kill(victim.Process.Pid, 0); err != nil {
			t.Error(err)
		}
		var st unix.Stat_t
		if err := Delegate(g.Paths()[key], 1234, 4321); err != nil {
			t.Error(err)
		}
		if err := unix.Stat(filepath.Join(g.Paths()[key], "cgroup.procs"), &st); err != nil || st.Uid != 1234 || st.Gid != 4321 {
			t.Errorf("given to %d:%d, %v", st.Uid, st.Gid, err)
		}
		if err := Join(g.Paths(), ExecName("x"), newcomer.Process.Pid); err != nil {
			t.Error(err)
		}
		if pids := Processes(dir); !slices.Equal(pids, []int{newcomer.Process.Pid}) {
			t.Errorf("%v, want %d", pids, newcomer.Process.Pid)
		}
		if pids, err := g.Procs(); err != nil || !slices.Contains(pids, newcomer.Process.Pid) {
			t.Errorf("%v, %v", pids, err)
		}
		_ = newcomer.Process.Kill()
		_ = newcomer.Wait()
		if !RemoveInner(dir) {
			t.Error("the group stays")
		}
	})
}

// TestInnerDeep: what runs in groups that a container has made too deep for a path
// is found, and its groups are removed.
func TestInnerDeep(t *testing.T) {
	each(t, false, func(t *testing.T, d *Driver) {
		g := create(t, d, Resources{}, Devices{})
		dir, err := MakeInner(g.Paths(), ExecName("deep"))
		if err != nil {
			t.Fatal(err)
		}
		if dir == "" {
			t.Skip("this host has neither cgroup v2 nor v1's freezer, where an exec has a group")
		}
		at, err := openInner(dir)
		if err != nil {
			t.Fatal(err)
		}
		name := string(slices.Repeat([]byte("d"), 200))
		for range 30 {
			if err := unix.Mkdirat(at, name, 0o755); err != nil {
				t.Fatal(err)
			}
			next, err := openBelow(at, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(at)
			at = next
		}
		p := spawn(t, "sleep")
		if err := writeAt(at, "cgroup.procs", fmt.Sprint(p.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		if pids := Processes(dir); !slices.Equal(pids, []int{p.Process.Pid}) {
			t.Errorf("%v, want %d", pids, p.Process.Pid)
		}
		if RemoveInner(dir) {
			t.Error("removed, though something runs")
		}
		if n, err := SignalAll(dir, unix.SIGKILL); n != 1 || err != nil {
			t.Errorf("%d killed, %v", n, err)
		}
		_ = p.Wait()
		gone := false
		for range 100 {
			if gone = RemoveInner(dir); gone {
				break
			}
		}
		if !gone {
			t.Error("the group stays")
		}
	})
}
