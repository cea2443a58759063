package proc

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hezi/test/harness"
)

// TestUndeliverable: a program that waits for signals with sigtimedwait(2), as
// tini does, has neither a handler for them nor, while it waits, has them blocked.
func TestUndeliverable(t *testing.T) {
	for _, c := range []struct {
		command []string
		lost    bool
	}{
		{[]string{"tini-static", "-s", "--", "sleep", "100"}, false},
		{[]string{"sh", "-c", "trap : TERM; sleep 100; :"}, false},
		{[]string{"sleep", "100"}, true},
	} {
		cmd := exec.Command(c.command[0], c.command[1:]...)
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.Kill(cmd.Process.Pid, unix.SIGTERM) // tini's child is in a group of its own
			time.Sleep(50 * time.Millisecond)
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			_ = cmd.Wait()
		})
		time.Sleep(300 * time.Millisecond) // it is to be in its wait
		for range 50 {
			if got := Undeliverable(cmd.Process.Pid, unix.SIGTERM); got != c.lost {
				t.Fatalf("%v: lost %t, not %t", c.command, got, c.lost)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}

func TestExited(t *testing.T) {
	pid := harness.HalfDead(t)
	if Exited(pid) {
		t.Error("a process with a thread that lives is said to have exited")
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !Exited(cmd.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a zombie is not said to have exited")
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !Exited(cmd.Process.Pid) {
		t.Error("a process that is gone is not said to have exited")
	}
}
