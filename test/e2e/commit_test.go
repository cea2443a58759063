package e2e

import (
	"testing"
	"time"

	"hezi/test/harness"
)

// TestCommitPause: the pause for a commit ends with it, also of a run that began
// while the commit waited, and no pause of a user's does.
func TestCommitPause(t *testing.T) {
	const name, image = "commit-pause", "commit-pause:1"
	engine.Must(t, "run", "-d", "--name", name, "busybox", "sh", "-c", "trap 'sleep 0.3; exit' TERM; dd if=/dev/urandom of=/big bs=1M count=200; touch /ready; while :; do sleep 0.1; done")
	defer engine.Must(t, "rm", "-f", name)
	state := func() string { return engine.Must(t, "inspect", "-f", "{{.State.Status}}", name) }
	await(t, engine, is(""), "exec", name, "cat", "/ready")
	begin := func(args ...string) chan harness.Result {
		done := make(chan harness.Result, 1)
		go func() { done <- engine.Hezi(args...) }()
		return done
	}

	caught := false
	for range 20 {
		done := begin("commit", name, image)
		for len(done) == 0 && state() != "paused" {
		}
		if caught = engine.Hezi("unpause", name).Code == 0; caught { // or the commit was too fast
			engine.Must(t, "pause", name)
		}
		if r := <-done; r.Code != 0 {
			t.Error(r.Err)
		}
		if caught {
			break
		}
	}
	if !caught {
		t.Fatal("no commit of twenty could be caught in its pause")
	}
	if got := state(); got != "paused" {
		t.Errorf("after a user's pause it is %s", got)
	}
	engine.Must(t, "unpause", name)

	for range 3 {
		again := begin("restart", name)
		time.Sleep(150 * time.Millisecond) // it waits for the program's end
		if r := engine.Hezi("commit", name, image); r.Code != 0 {
			t.Error(r.Err)
		}
		if r := <-again; r.Code != 0 {
			t.Error(r.Err)
		}
		if got := state(); got != "running" {
			t.Fatalf("after a restart it is %s", got)
		}
	}
	engine.Must(t, "rmi", "-f", image)
}
