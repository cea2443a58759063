package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hezi/test/harness"
)

// TestRuntimesKilled kills what holds containers of other runtimes, in all
// combinations, and replaces the keeper: they run on, can be entered, their output
// is kept and their exit codes are known.
func TestRuntimesKilled(t *testing.T) {
	declared, names := harness.Runtimes(t)
	for _, name := range names[1:4] {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			e.Down()
			if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(`{"runtimes": `+declared+`}`), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := e.Up(); err != nil {
				t.Fatal(err)
			}
			e.Must(t, "run", "--rm", "--runtime", name, "busybox", "true")
			before := e.Count()
			for _, c := range []struct {
				what                  string
				hezid, keeper, holder bool
			}{{"hezid", true, false, false}, {"keeper", false, true, false}, {"holder", false, false, true}, {"hezid and keeper", true, true, false}, {"keeper and holder", false, true, true}, {"all", true, true, true}} {
				t.Run(c.what, func(t *testing.T) {
					e.Must(t, "run", "-d", "--name", "box", "--runtime", name, "busybox", "sh", "-c", "echo begun; while [ ! -f /go ]; do sleep 0.1; done; echo gone; exit 6")
					e.Must(t, "run", "-d", "--name", "frozen", "--runtime", name, "busybox", "sleep", "1000")
					e.Must(t, "pause", "frozen")
					keeper, holder := e.Keeper()
					if c.hezid {
						e.Kill()
					}
					if c.keeper {
						killed(t, keeper)
					}
					if c.holder {
						killed(t, holder)
					}
					if c.hezid {
						if err := e.Up(); err != nil {
							t.Fatal(err)
						}
					}
					// One that is asked of a keeper at the moment of its death fails.
					for deadline := time.Now().Add(10 * time.Second); e.Hezi("exec", "box", "true").Code != 0 && time.Now().Before(deadline); {
						time.Sleep(50 * time.Millisecond)
					}
					if r := e.Hezi("exec", "box", "sh", "-c", "echo inside; exit 3"); r.Out != "inside\n" || r.Code != 3 {
						t.Errorf("exec: %d, %q, %q", r.Code, r.Out, r.Err)
					}
					e.Must(t, "unpause", "frozen")
					e.Must(t, "exec", "box", "touch", "/go")
					if got := e.Must(t, "wait", "box"); got != "6" {
						t.Errorf("exit code %s, not 6: %s", got, e.Must(t, "inspect", "-f", "{{.State.Error}}", "box"))
					}
					if got := e.Must(t, "logs", "box"); got != "begun\ngone" {
						t.Errorf("log %q", got)
					}
					e.Must(t, "rm", "-f", "box", "frozen")
				})
			}
			e.NothingLeft(t, before, 6)
		})
	}
}

// TestRuntimesCutOff kills the keeper at any moment of starts and execs by another
// runtime: what was cut off leaves no process, mount or folder.
func TestRuntimesCutOff(t *testing.T) {
	declared, _ := harness.Runtimes(t)
	e := start(t)
	e.Down()
	if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(`{"runtimes": `+declared+`, "default-runtime": "runc"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "run", "--rm", "busybox", "true")
	before := e.Count()
	mark := fmt.Sprintf("mark%d", time.Now().UnixNano())
	e.Must(t, "run", "-d", "--name", "held", "busybox", "sleep", "1000")
	for i := range 8 {
		name := fmt.Sprintf("cut%d", i)
		e.Must(t, "create", "--name", name, "busybox", "sleep", "1000", mark)
		done := make(chan struct{})
		go func() {
			e.Hezi("start", name) // it may fail
			e.Hezi("exec", "-d", "held", "sh", "-c", "sleep 1000; : "+mark)
			close(done)
		}()
		time.Sleep(time.Duration(i*25) * time.Millisecond)
		keeper, _ := e.Keeper()
		killed(t, keeper)
		<-done
		e.Must(t, "rm", "-f", name)
	}
	e.Must(t, "rm", "-f", "held")
	running(t, mark, 0)
	e.NothingLeft(t, before, 6)
	if left, err := filepath.Glob(filepath.Join(e.Dir, "run/runtimes/[0-9a-f]*")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
