package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
)

// TestExecEndsWithItsClient: an exec that is to end with its client does so when
// the client's connection ends with a keeper that is killed; another runs on, and
// so does one that its client has detached from.
func TestExecEndsWithItsClient(t *testing.T) {
	b := newBed(t)
	b.start(b.request("a", "exec sleep 100"))
	pids := map[string]int{}
	for _, id := range []string{"bound", "free", "detached"} {
		s, err := b.c.Exec(b.ctx, keeper.ExecRequest{ContainerID: "a", ExecID: id, KillOnDisconnect: id != "free", AwaitAttach: true,
			Process: box.Process{Args: []string{"sleep", "100"}, OpenStdin: true, AttachStdout: true}})
		if err != nil {
			t.Fatal(err)
		}
		pids[id] = s.PID
		defer func() { _ = unix.Kill(s.PID, unix.SIGKILL) }()
		conn := b.attach(keeper.AttachRequest{ContainerID: "a", ExecID: id, Stdin: true, DetachKeys: []byte{16, 17}}, "")
		if id == "detached" {
			if _, err := conn.Write([]byte{16, 17}); err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Read(make([]byte, 1)) // until it is closed
		}
	}
	b.kill(b.info().PID)
	if _, err := b.c.List(b.ctx); err != nil {
		t.Fatal(err)
	}
	gone := func(id string) bool { return errors.Is(unix.Kill(pids[id], 0), unix.ESRCH) }
	for deadline := time.Now().Add(10 * time.Second); !gone("bound"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the exec runs on without its client")
		}
	}
	for _, id := range []string{"free", "detached"} {
		if gone(id) {
			t.Errorf("the exec %s was ended", id)
		}
	}
}

// TestLeftGroups: groups of execs, and of standbys, that a keeper before this one
// has left go with the next exec that ends; those of execs that run stay.
func TestLeftGroups(t *testing.T) {
	name := fmt.Sprintf("test-left-%d", os.Getpid())
	d, err := cgroup.New(name)
	if err != nil {
		t.Fatal(err)
	}
	g, err := d.CreateIn(t.Context(), "/"+name+"-parent", "a", cgroup.Resources{}, cgroup.Devices{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		for _, dir := range g.Paths() {
			if err := unix.Rmdir(filepath.Dir(dir)); err != nil && err != unix.ENOENT {
				t.Error(err)
			}
		}
	}()
	for _, name := range []string{"exec-ended", "exec-runs", "exec-new", "standby-7", "its-own"} {
		if err := os.Mkdir(cgroup.Inner(g.Paths(), name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := New(Options{}, nil, nil)
	c := newProcess(s, record{ContainerID: "a", CgroupPaths: g.Paths()})
	s.insert([]*process{newProcess(s, record{ContainerID: "a", ExecID: "runs"}), c})
	leaveExec(c, "new")
	for name, want := range map[string]bool{"exec-ended": false, "exec-runs": true, "exec-new": false, "standby-7": false, "its-own": true} {
		if _, err := os.Stat(cgroup.Inner(g.Paths(), name)); (err == nil) != want {
			t.Errorf("%s: %v, to be there: %v", name, err, want)
		}
	}
}
