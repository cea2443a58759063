// Package compat drives the real engine with Docker's own client by text
// scripts in testdata.
package compat

import (
	"os"
	"os/exec"
	"testing"

	"hezi/test/harness"
)

var engine *harness.Engine

func TestMain(m *testing.M) { os.Exit(harness.Main(m, &engine)) }

func TestScripts(t *testing.T) { engine.Scripts(t) }

// TestOldClient: Debian's python3-docker speaks the API as it was years ago.
func TestOldClient(t *testing.T) {
	registry := harness.Registry(t)
	for _, version := range []string{"1.24", "1.30", "1.40", "1.43", "1.44"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/usr/bin/python3", "testdata/old_client.py", engine.Host, version, registry)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestTerminal: Docker's client on a terminal: a shell, resize, detach keys,
// attach again, leave by exit.
func TestTerminal(t *testing.T) {
	s := harness.Terminal(t, engine.Docker("run", "-it", "--name", "terminal", "busybox", "sh"))
	s.Type(t, "echo one-$((1+1))\n")
	s.Expect(t, "one-2")
	s.Resize(t, 33, 101)
	s.Type(t, "until stty size | grep '33 101'; do usleep 50000; done; echo resized-$((1+2))\n")
	s.Expect(t, "resized-3")
	s.Type(t, "sh -c 'echo asleep-$((4+4)); exec sleep 100'\n") // the line editor is done once it has echoed
	s.Expect(t, "asleep-8")
	s.Type(t, "\x03") // ctrl-c
	s.Type(t, "echo alive-$((2+2))\n")
	s.Expect(t, "alive-4")
	s.Type(t, "\x10\x11") // ctrl-p ctrl-q
	if code := s.Wait(t); code != 0 {
		t.Errorf("docker run ended with %d after the detach keys", code)
	}
	if got := engine.Must(t, "inspect", "-f", "{{.State.Running}}", "terminal"); got != "true" {
		t.Fatalf("running: %s", got)
	}
	s = harness.Terminal(t, engine.Docker("attach", "terminal"))
	s.Type(t, "echo again-$((3+3))\n")
	s.Expect(t, "again-6")
	s.Type(t, "exit 7\n")
	if code := s.Wait(t); code != 7 {
		t.Errorf("docker attach ended with %d, not 7", code)
	}
	engine.Must(t, "rm", "terminal")
}
