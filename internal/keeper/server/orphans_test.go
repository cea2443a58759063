package server

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
)

// TestGroupOfForeignParent: what a cut-off start has left is found and ended also
// where its cgroup is not below the engine's own.
func TestGroupOfForeignParent(t *testing.T) {
	name := fmt.Sprintf("test-orphans-%d", unix.Getpid())
	d, err := cgroup.New(name)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("a1", 32)
	g, err := d.CreateIn(t.Context(), "/"+name+"-parent", id, cgroup.Resources{}, cgroup.Devices{})
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
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if got := containerOf(cmd.Process.Pid); got != id {
		t.Errorf("its container is %q", got)
	}
	dirs := groupOf(cmd.Process.Pid, id)
	want := map[string]bool{}
	for _, dir := range g.Paths() {
		want[dir] = true
	}
	for _, dir := range dirs {
		if !want[dir] {
			t.Errorf("%s is not of %v", dir, g.Paths())
		}
		delete(want, dir)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
	if err := dirs.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != unix.SIGKILL {
		t.Errorf("it ended by %v", cmd.ProcessState)
	}
}

// TestFoundOnce: of many who find a lost container at once one takes it up, and
// the others wait until it is held.
func TestFoundOnce(t *testing.T) {
	s := &Server{containers: map[string]*process{}, starting: map[string]bool{}}
	var took atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if !reserve(s, "box") {
				if !s.holds("box") {
					t.Error("it is said to be held, and is not")
				}
				return
			}
			took.Add(1)
			time.Sleep(10 * time.Millisecond)
			s.mu.Lock()
			s.containers["box"] = &process{}
			delete(s.starting, "box")
			s.mu.Unlock()
		})
	}
	all.Wait()
	if n := took.Load(); n != 1 {
		t.Errorf("%d took it up", n)
	}
}
