package moving

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// reads puts a program on PATH that is started for hezid.
func reads(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hezid"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestReaderEnds: of a crash the first line is said, and of an error all.
func TestReaderEnds(t *testing.T) {
	for script, want := range map[string]string{
		`echo "a Docker daemon runs" >&2; exit 1`:                          "a Docker daemon runs",
		`printf "fatal error: out of memory\n\ngoroutine 1\n" >&2; exit 2`: "hezid docker-root has failed (exit status 2) on /root/docker, of which something is damaged or too large: fatal error: out of memory",
		`kill -9 $$`: "hezid docker-root has failed (signal: killed) on /root/docker",
		`exit 0`:     "ended without a word",
	} {
		reads(t, script)
		if _, err := readRoot(t.Context(), "/root/docker", ""); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("%s: %v, want %q", script, err, want)
		}
	}
	reads(t, `echo ready; printf "fatal error: x\n\ngoroutine 1\n" >&2; exit 2`)
	r, err := readRoot(t.Context(), "/root/docker", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.close(); err == nil || !strings.HasSuffix(err.Error(), ": fatal error: x") {
		t.Errorf("after it was ready: %v", err)
	}
}

// TestReaderIsLeft: who gives up does not wait for a reader that waits for a disk.
func TestReaderIsLeft(t *testing.T) {
	reads(t, "exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := readRoot(ctx, "/root/docker", "")
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it is waited for")
	}
}
