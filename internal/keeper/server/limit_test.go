package server

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHolderAtItsLimit: a holder that cannot take more descriptors refuses a
// container, in words, and keeps what it has and its keeper.
func TestHolderAtItsLimit(t *testing.T) {
	b := newBed(t)
	b.start(b.request("held", "exec sleep 100"))
	before := b.info()
	var was unix.Rlimit
	if err := unix.Prlimit(before.HolderPID, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = 3 // below what it has: no more
	if err := unix.Prlimit(before.HolderPID, unix.RLIMIT_NOFILE, &low, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.c.Start(b.ctx, b.request("refused", "exec sleep 100")); err == nil || !strings.Contains(err.Error(), "limit of open files") {
		t.Errorf("start: %v", err)
	}
	if err := unix.Prlimit(before.HolderPID, unix.RLIMIT_NOFILE, &was, nil); err != nil {
		t.Fatal(err)
	}
	if now := b.info(); now.HolderPID != before.HolderPID || now.PID != before.PID || now.Containers != 1 {
		t.Errorf("it was %+v and is %+v", before, now)
	}
	b.start(b.request("refused", "exit 3"))
	if e := b.wait("refused"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	b.kill(before.PID)
	if now := b.info(); now.HolderPID != before.HolderPID || now.Containers != 2 {
		t.Errorf("after the keeper's death: %+v", now)
	}
}
