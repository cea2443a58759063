package cgroup

import (
	"os"
	"testing"
)

// TestZombie: the name of a process is its own to choose.
func TestZombie(t *testing.T) {
	p := spawn(t, "named")
	if said := p.start(t); said != "ready" {
		t.Fatal(said)
	}
	if zombie(p.Process.Pid) {
		t.Error("a process that lives is taken for a zombie")
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil {
		t.Fatal("it was not killed")
	}
	if !zombie(p.Process.Pid) || zombie(os.Getpid()) {
		t.Error("a process that is gone is not told from one that lives")
	}
}
