// Package e2e drives the real engine with hezi by text scripts in testdata.
package e2e

import (
	"os"
	"strings"
	"testing"

	"hezi/test/harness"
)

var engine *harness.Engine

func TestMain(m *testing.M) { os.Exit(harness.Main(m, &engine)) }

func TestScripts(t *testing.T) { engine.Scripts(t) }

// TestUntilNow: what has just happened is before "0s ago", also within its second.
func TestUntilNow(t *testing.T) {
	const name = "until-now"
	defer engine.Must(t, "rm", "-f", name)
	for i := range 6 { // at the turn of a second, whole ones would do
		engine.Must(t, "create", "--name", name, "busybox", "true")
		if got := engine.Must(t, "events", "--since", "1m", "--until", "0s", "--filter", "container="+name, "--filter", "event=create", "--format", "{{.Action}}"); strings.Count(got, "create") != i+1 {
			t.Errorf("after %d: %q", i+1, got)
		}
		if i < 5 {
			engine.Must(t, "rm", name)
		}
	}
	engine.Must(t, "rm", name)
	engine.Must(t, "run", "--name", name, "busybox", "echo", "said")
	if got := engine.Must(t, "logs", "--until", "0s", name); got != "said" {
		t.Errorf("logs: %q", got)
	}
}
