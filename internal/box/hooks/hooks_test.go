package hooks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func shell(script string, args ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: append([]string{"sh", "-c", script, "hook"}, args...), Env: []string{"PATH=/usr/bin:/bin"}}
}

// TestBackground: what a hook leaves behind, its output still open, is not waited
// for, and the hook has not failed.
func TestBackground(t *testing.T) {
	began := time.Now()
	if err := Run(t.Context(), []specs.Hook{shell("sleep 20 & exit 0")}, specs.State{}, "prestart"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := Run(t.Context(), []specs.Hook{shell("sleep 20 & echo why; exit 3")}, specs.State{}, "prestart"); err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Error(err)
	}
}

// TestTimeout: a hook that outlasts its timeout ends with the processes that it
// waits for.
func TestTimeout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "late")
	h, one := shell(`sh -c 'sleep 2; echo x > "$1"' inner "$1"; true`, file), 1
	h.Timeout = &one
	if err := Run(t.Context(), []specs.Hook{h}, specs.State{}, "prestart"); err == nil || !strings.Contains(err.Error(), "it did not end within 1 s") {
		t.Error(err)
	}
	time.Sleep(2500 * time.Millisecond)
	if _, err := os.Stat(file); err == nil {
		t.Error("what the hook waited for goes on")
	}
}
