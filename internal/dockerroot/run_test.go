package dockerroot

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLeave: the reader ends with who started it, whatever it waits for.
func TestLeave(t *testing.T) {
	const child = "HEZI_TEST_LEAVE"
	if os.Getenv(child) != "" {
		go leave()
		time.Sleep(time.Minute)
		os.Exit(7)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "ours"), os.NewFile(uintptr(ends[1]), "theirs")
	cmd := exec.Command(os.Args[0], "-test.run", "^TestLeave$")
	cmd.Env, cmd.ExtraFiles = append(os.Environ(), child+"=1"), []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		t.Fatalf("it ended at once: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	ours.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("it goes on alone")
	}
}
