package box

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inTime fails when f, which must not wait for anybody, has not returned soon.
func inTime(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("it still waits after 10 s")
		return nil
	}
}

// TestExecWhilePidfdCloses: the keeper closes a box's pidfd at its end, which may
// be while an exec begins: the exec fails, and neither waits nor enters what the
// number of the descriptor means by then.
func TestExecWhilePidfdCloses(t *testing.T) {
	spec := boxSpec(t, image(t), "sleep", "100")
	box := start(t, spec)
	fd, err := copyOf(box.PidFD)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	pidfd.Close()
	p := spec.Process
	p.Args = []string{"true"}
	err = inTime(t, func() error {
		_, err := testRuntime.Exec(context.Background(), box.PID, pidfd, box.CgroupPaths, &p, Stdio{})
		return err
	})
	var failed *Error
	if !errors.As(err, &failed) || !strings.Contains(failed.Message, "not running") {
		t.Errorf("%v", err)
	}
}

// TestPlanCannotBeSent: an init that lives, and waits for a plan that cannot be
// sent, is ended; its last words are not waited for, which it has none.
func TestPlanCannotBeSent(t *testing.T) {
	c, err := testRuntime.spawn(joinBirth())
	if err != nil {
		t.Fatal(err)
	}
	b := newBundle()
	defer b.close()
	b.lend(-1) // a descriptor that is closed
	err = inTime(t, func() error {
		_, err := c.exec(context.Background(), b, nil, func() error { return nil })
		return err
	})
	if !errors.Is(err, unix.EBADF) && (err == nil || !strings.Contains(err.Error(), "cannot talk to init")) {
		t.Errorf("%v", err)
	}
	if err := unix.Kill(c.pid, 0); err != unix.ESRCH {
		t.Errorf("the init is left: %v", err)
	}
}
