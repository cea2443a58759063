package fault

import (
	"strings"
	"testing"
	"time"
)

// TestStopGoesOn: a stop that its client or hezid left ends the container when its
// time is over, and no restart policy starts it again.
func TestStopGoesOn(t *testing.T) {
	e := start(t)
	const deaf = `trap 'echo heard' TERM; echo ready; while :; do sleep 0.1; done`
	for _, c := range []struct {
		name  string
		leave func(client func())
	}{
		{"client", func(client func()) { client() }},
		{"hezid", func(func()) {
			e.Kill()
			if err := e.Up(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		e.Must(t, "run", "-d", "--name", c.name, "--restart", "always", "busybox", "sh", "-c", deaf)
		shows(t, e.Must, "ready", "logs", c.name)
		cmd := e.Command("stop", "-t", "4", c.name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		shows(t, e.Must, "heard", "logs", c.name)
		c.leave(func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // it was left in the middle
		shows(t, e.Must, "exited 137", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", c.name)
		if log := e.Must(t, "logs", c.name); strings.Count(log, "heard") != 1 {
			t.Errorf("%s: the program got the signal again:\n%s", c.name, log)
		}
		e.Must(t, "rm", c.name)
	}
}

// shows waits until a command says text.
func shows(t *testing.T, must func(testing.TB, ...string) string, text string, args ...string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = must(t, args...); strings.Contains(got, text) {
			return
		}
	}
	t.Fatalf("%v does not show %q for a minute: %s", args, text, got)
}
