package harness

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Main starts the one engine of a package of scripts, with busybox:latest in
// it, and ends it after the tests. Call it from TestMain.
func Main(m *testing.M, e **Engine) (code int) {
	var err error
	if *e, err = New(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := (*e).Close(); err != nil {
			fmt.Fprintln(os.Stderr, "closing the engine:", err)
			code = 1
		}
	}()
	if err := (*e).LoadBusybox(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// Scripts runs testdata/*.txtar against the engine, side by side. Scripts name
// their containers after themselves and remove them; afterwards nothing may be
// left in the kernel or on the disk.
func (e *Engine) Scripts(t *testing.T) {
	for _, kind := range []string{"--privileged=false", "--privileged"} { // what is made once is made
		e.Must(t, "run", "--rm", kind, "busybox", "true")
	}
	before := e.Count()
	e.RunScripts(t, testscript.Params{Dir: "testdata"})
	if ids := e.Must(t, "ps", "-aq"); ids != "" {
		t.Errorf("scripts left containers behind:\n%s", e.Must(t, "ps", "-a"))
		e.Must(t, append([]string{"rm", "-f", "-v"}, strings.Fields(ids)...)...) // the tests that follow count
	}
	e.NothingLeft(t, before, 4)
}

// scriptCommands are what scripts know beside testscript's own:
//
//	exits CODE PROGRAM ARGS...    run it and ask for its exit code
//	eventually PROGRAM ARGS...    run it until it succeeds, for a minute: an engine with the race detector is slow
func scriptCommands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"exits": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < 2 {
				ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
			}
			if _, err := strconv.Atoi(args[0]); err != nil {
				ts.Fatalf("exits: %v", err)
			}
			script := `want=$1; shift; "$@"; code=$?; [ $code = $want ] || { echo "exit code $code" >&2; exit 1; }`
			if err := ts.Exec("sh", append([]string{"-c", script, "sh"}, args...)...); err != nil {
				ts.Fatalf("%s: want exit code %s: %v", strings.Join(args[1:], " "), args[0], err)
			}
		},
		"eventually": func(ts *testscript.TestScript, neg bool, args []string) {
			var err error
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
					return
				}
			}
			ts.Fatalf("%s: after a minute: %v", strings.Join(args, " "), err)
		},
	}
}

// RunScripts runs the scripts of p side by side. They know p's commands too, and
// p's Setup is the last.
func (e *Engine) RunScripts(t *testing.T, p testscript.Params) {
	t.Helper()
	registry := Registry(t)
	img, err := Busybox()
	if err != nil {
		t.Fatal(err)
	}
	Push(t, registry, "busybox:latest", img)
	archive, err := BusyboxArchive()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(archive) })
	t.Run("scripts", func(t *testing.T) {
		cmds, setup := scriptCommands(), p.Setup
		maps.Copy(cmds, p.Cmds)
		p.RequireExplicitExec, p.Cmds = true, cmds
		p.Setup = func(env *testscript.Env) error {
			env.Vars = append(env.Vars, e.Env()...)
			env.Setenv("PATH", Bin()+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("REGISTRY", registry)
			env.Setenv("ENGINE", e.Dir)
			env.Setenv("BUSYBOX_ARCHIVE", archive)
			if setup != nil {
				return setup(env)
			}
			return nil
		}
		testscript.Run(t, p)
	})
}
