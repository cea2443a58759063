// Package e2e drives the real engine with hezi by text scripts in testdata.
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"hezi/test/harness"
)

var engine *harness.Engine

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	var err error
	if engine, err = harness.New(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := engine.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "closing the engine:", err)
			code = 1
		}
	}()
	if err := engine.LoadBusybox(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// TestScripts runs testdata/*.txtar, each of them against the one engine.
// Scripts name their containers after themselves and remove them; afterwards
// nothing may be left in the kernel or on the disk.
func TestScripts(t *testing.T) {
	engine.Must(t, "run", "--rm", "busybox", "true") // what is made once is made
	before := engine.Count()
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:                 "testdata",
			RequireExplicitExec: true,
			Setup:               setup(t),
			Cmds:                harness.ScriptCommands(engine),
		})
	})
	if ids := engine.Must(t, "ps", "-aq"); ids != "" {
		t.Errorf("scripts left containers behind: %s", engine.Must(t, "ps", "-a"))
	}
	engine.NothingLeft(t, before, 4)
}

func setup(t *testing.T) func(*testscript.Env) error {
	registry := harness.Registry(t)
	img, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	harness.Push(t, registry, "busybox:latest", img)
	return func(env *testscript.Env) error {
		for _, v := range engine.Env() {
			env.Vars = append(env.Vars, v)
		}
		env.Setenv("PATH", harness.Bin()+string(filepath.ListSeparator)+os.Getenv("PATH"))
		env.Setenv("HOME", env.WorkDir)
		env.Setenv("REGISTRY", registry)
		env.Setenv("ENGINE", engine.Dir)
		return nil
	}
}
