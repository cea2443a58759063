package proc

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
