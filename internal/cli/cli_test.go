package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hezi/internal/cli/term"
)

func TestMain(m *testing.M) {
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0") // or every hezi under the race detector lasts a second
	}
	testscript.Main(m, map[string]func(){"hezi": func() { os.Exit(Main(os.Args[1:])) }})
}

// TestScripts runs the command lines of testdata/*.txtar, each against an
// engine of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			startEngine(env.T().(testing.TB), filepath.Join(env.WorkDir, "engine.sock"))
			env.Setenv("HEZI_HOST", "unix://"+filepath.Join(env.WorkDir, "engine.sock"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, ".docker"))
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"eventually": eventually,
		},
	})
}

// exits CODE PROGRAM ARGS... runs a program and asks for its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// eventually PROGRAM ARGS... repeats a program for ten seconds until it succeeds.
func eventually(ts *testscript.TestScript, _ bool, args []string) {
	err := fmt.Errorf("never run")
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err = ts.Exec(args[0], args[1:]...)
	}
	ts.Check(err)
}

// testStreams go nowhere.
func testStreams(t *testing.T) *term.Streams {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return &term.Streams{In: null, Out: null, Err: null}
}
