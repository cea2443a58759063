package server

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/keeper"
)

// TestExecEndsWithItsClient: an exec that is to end with its client does so when
// the client's connection ends with a keeper that is killed; another runs on, and
// so does one that its client has detached from.
func TestExecEndsWithItsClient(t *testing.T) {
	b := newBed(t)
	b.start(b.request("a", "sleep 100"))
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
	dir := t.TempDir() // empty directories are all that matters
	for _, name := range []string{"exec-ended", "exec-runs", "exec-new", "standby-7", "its-own"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := New(Options{}, nil, nil)
	c := newProcess(s, record{ContainerID: "a", CgroupPaths: map[string]string{"": dir}})
	s.insert([]*process{newProcess(s, record{ContainerID: "a", ExecID: "runs"}), c})
	leaveExec(c, "new")
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 || left[0].Name() != "exec-runs" || left[1].Name() != "its-own" {
		t.Errorf("left: %v", left)
	}
}
