package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hezi/test/harness"
)

const (
	runtimeTools     = "github.com/opencontainers/runtime-tools@v0.9.0"
	validationTime   = 2 * time.Minute // for one program by one runtime
	validationLeast  = 25              // programs that runc passes on any machine
	validationModule = "testdata/runtime-tools"
)

// TestValidation has the programs of runtime-tools judge our OCI runtime beside
// Debian's runc: what runc passes, ours passes too.
func TestValidation(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal("install runc: make setup")
	}
	dir := buildValidation(t)
	programs, err := os.ReadDir(filepath.Join(dir, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	reference := judged(t, dir, "runc", runc)
	ours := judged(t, dir, "ours", filepath.Join(harness.Bin(), "hezi-keeper")+" oci")
	var mu sync.Mutex
	passed := 0
	t.Run("programs", func(t *testing.T) {
		for _, p := range programs {
			t.Run(p.Name(), func(t *testing.T) {
				if !strings.HasPrefix(p.Name(), "linux_cgroups_") { // these have names of cgroups in common
					t.Parallel()
				}
				want := reference(p.Name())
				if !want.clean() {
					t.Skipf("runc does not pass it on this machine either: %s", want)
				}
				mu.Lock()
				passed++
				mu.Unlock()
				got := ours(p.Name())
				for range 2 { // pidfile signals a container whose program ends by itself: which is faster is chance
					if got.clean() {
						break
					}
					got = ours(p.Name())
				}
				if !got.clean() || got.ok < want.ok {
					t.Errorf("runc: %s; ours: %s", want, got)
				}
			})
		}
	})
	if passed < validationLeast {
		t.Errorf("runc passes only %d of %d programs, so next to nothing was compared", passed, len(programs))
	}
}

// buildValidation builds the programs, which belong to no module, with the versions
// that testdata names.
func buildValidation(t *testing.T) string {
	dir := t.TempDir()
	goTool := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOTOOLCHAIN=local", "GOFLAGS=-buildvcs=false")
		var words bytes.Buffer
		cmd.Stderr = &words
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("go %s: %w: %s%s", strings.Join(args, " "), err, words.String(), out)
		}
		return string(out), nil
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(validationModule, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out, err := goTool("mod", "download", "-json", runtimeTools)
	if err == nil {
		_, err = goTool("mod", "download")
	}
	if err != nil {
		t.Skipf("this machine lacks a way to Go's module proxy (GOPROXY), where %s and what it is built with come from: %v", runtimeTools, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &module); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-r", "--no-preserve=mode", module.Dir+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := filepath.Glob(filepath.Join(dir, "validation", "*", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	build := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", "bin/"}
	for _, file := range list {
		if name := filepath.Base(filepath.Dir(file)); name != "util" && !slices.Contains(build, "./validation/"+name) {
			build = append(build, "./validation/"+name)
		}
	}
	if _, err := goTool(build...); err != nil {
		t.Fatal(err)
	}
	if _, err := goTool("build", "-trimpath", "-ldflags=-s -w", "-o", "runtimetest", "./cmd/runtimetest"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// verdict is what a program says in the Test Anything Protocol.
type verdict struct {
	ok, failed int
	err        error
	words      string
}

func (v verdict) clean() bool { return v.err == nil && v.failed == 0 }

func (v verdict) String() string {
	return fmt.Sprintf("%d ok, %d not ok, %v\n%s", v.ok, v.failed, v.err, v.words)
}

var (
	lineOK  = regexp.MustCompile(`(?m)^\s*ok `)
	lineNot = regexp.MustCompile(`(?m)^\s*not ok .*$`)
)

// judged returns what runs a program with a runtime.
func judged(t *testing.T, dir, name, command string) func(program string) verdict {
	t.Helper()
	script, tmp := filepath.Join(dir, name), filepath.Join(dir, "tmp-"+name)
	text := fmt.Sprintf("#!/bin/sh\nexec %s --root %s \"$@\"\n", command, filepath.Join(dir, "state-"+name))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out, err := exec.Command(script, "list", "-q").Output()
		if err != nil {
			t.Errorf("%s list: %v", name, err)
		}
		for _, id := range strings.Fields(string(out)) {
			if out, err := exec.Command(script, "delete", "--force", id).CombinedOutput(); err != nil {
				t.Errorf("%s delete: %v: %s", name, err, out)
			}
		}
	})
	return func(program string) verdict {
		ctx, cancel := context.WithTimeout(context.Background(), validationTime)
		defer cancel()
		// Some have containers without a mount namespace of their own, which would
		// mount on this machine's, where runc leaves it.
		cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--", filepath.Join(dir, "bin", program))
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		cmd.Env = append(os.Environ(), "RUNTIME="+script, "TMPDIR="+tmp)
		var words bytes.Buffer
		cmd.Stderr = &words
		out, err := cmd.Output()
		if errors.Is(err, exec.ErrWaitDelay) {
			err = nil // a container has the pipe still
		}
		failed := lineNot.FindAllString(string(out), -1)
		return verdict{ok: len(lineOK.FindAll(out, -1)), failed: len(failed), err: err, words: strings.Join(failed, "\n") + "\n" + words.String()}
	}
}
