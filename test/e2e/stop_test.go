package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStopSignal: who can get the stop signal gets it, whichever way, and is
// waited for; who cannot is killed at once, which is said.
func TestStopSignal(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "signalfd")
	if out, err := exec.Command("gcc", "-static", "-o", own, "testdata/signalfd.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const traps = `trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done`
	libraries := []string{"-v", "/lib64:/lib64:ro", "-v", "/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu:ro"}
	for _, c := range []struct {
		name    string
		options []string
		command []string
		young   bool // stopped as soon as it runs
		code    string
		deaf    bool
	}{
		{name: "handler", command: []string{"sh", "-c", traps}, code: "7"},
		{name: "signalfd", options: []string{"-v", own + ":/signalfd:ro"}, command: []string{"/signalfd"}, code: "6"},
		{name: "tini", options: []string{"-v", "/usr/bin/tini-static:/tini:ro"}, command: []string{"/tini", "--", "sh", "-c", traps}, code: "7"},
		{name: "dumb-init", options: append(libraries, "-v", "/usr/bin/dumb-init:/dumb-init:ro"), command: []string{"/dumb-init", "sh", "-c", traps}, code: "7"},
		{name: "init", options: []string{"--init"}, command: []string{"sh", "-c", traps}, code: "7"},
		{name: "slow", command: []string{"sh", "-c", "sleep 0.7; " + traps}, young: true, code: "7"},
		{name: "deaf", command: []string{"sh", "-c", "echo ready; exec sleep 1000"}, code: "137", deaf: true},
		{name: "ignores", command: []string{"sh", "-c", "trap '' TERM; echo ready; exec sleep 1000"}, code: "137", deaf: true},
		{name: "own-signal", options: []string{"--stop-signal", "RTMIN+3"}, command: []string{"sh", "-c", `trap 'exit 9' 37; echo ready; while :; do sleep 0.05; done`}, code: "9"},
		{name: "own-deaf", options: []string{"--stop-signal", "SIGRTMIN+3"}, command: []string{"sh", "-c", traps}, code: "137", deaf: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			name := "stop-" + c.name
			engine.Must(t, slices.Concat([]string{"run", "-d", "--name", name, "--stop-timeout", "600"}, c.options, []string{"busybox"}, c.command)...)
			t.Cleanup(func() { engine.Must(t, "rm", "-f", name) })
			if !c.young {
				await(t, engine, is("ready"), "logs", name)
			}
			engine.Must(t, "stop", name)
			if got := engine.Must(t, "inspect", "-f", "{{.State.ExitCode}}", name); got != c.code {
				t.Errorf("exit code %s, not %s", got, c.code)
			}
			time.Sleep(time.Second) // --until is cut to whole seconds
			kills := engine.Must(t, "events", "--since", "10m", "--until", "0s", "--filter", "container="+name, "--filter", "event=kill", "--format", "{{.Actor.Attributes.signal}} {{.Actor.Attributes.reason}}")
			if said := strings.Contains(kills, "9 the program has no handler for SIG"); said != c.deaf {
				t.Errorf("events:\n%s", kills)
			}
		})
	}
}

// TestSignals: names and numbers of signals.
func TestSignals(t *testing.T) {
	engine.Must(t, "run", "-d", "--name", "signals", "busybox", "sh", "-c",
		`for s in 1 10 15 34 37 64; do trap "echo got $s" $s; done; echo ready; while :; do sleep 0.05; done`)
	defer engine.Must(t, "rm", "-f", "signals")
	await(t, engine, is("ready"), "logs", "signals")
	want := "ready"
	for _, s := range []struct{ given, number string }{
		{"HUP", "1"}, {"SIGUSR1", "10"}, {"usr1", "10"}, {"15", "15"}, {"RTMIN", "34"}, {"SIGRTMIN+3", "37"}, {"37", "37"}, {"RTMAX", "64"},
	} {
		engine.Must(t, "kill", "-s", s.given, "signals")
		want += "\ngot " + s.number
		await(t, engine, is(want), "logs", "signals")
	}
	for s, words := range map[string]string{"NOSUCH": "Invalid signal: NOSUCH", "0": "Invalid signal: 0", "-1": "does not support signal -1", "65": "does not support signal 65"} {
		if r := engine.Hezi("kill", "-s", s, "signals"); r.Code == 0 || !strings.Contains(r.Err, words) {
			t.Errorf("%s: %d %s", s, r.Code, r.Err)
		}
	}
}
