// Package compat drives the real engine with Docker's own client by text
// scripts in testdata.
package compat

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

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
	// The client sends each size on a connection of its own: the one of its start may
	// come last.
	for range 10 {
		if s.Shows("resized-3", 5*time.Second) {
			break
		}
		s.Resize(t, 33, 100)
		s.Resize(t, 33, 101)
	}
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

// TestDisk: prunes and disk usage by Docker's client and by python3-docker, on
// an engine of its own.
func TestDisk(t *testing.T) {
	e := harness.Start(t)
	fill := func() {
		t.Helper()
		if err := e.LoadBusybox(); err != nil {
			t.Fatal(err)
		}
		e.Must(t, "tag", "busybox", "second:1")
		e.Must(t, "run", "--name", "stopped", "-v", "/anonymous", "-v", "named:/named", "busybox", "sh", "-c", "head -c 100000 /dev/zero > /f")
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := e.Docker(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	fill()
	if out := docker("system", "df"); !strings.Contains(out, "Images          1         1 ") || !strings.Contains(out, "Containers      1         0 ") || !strings.Contains(out, "Local Volumes   2         2 ") {
		t.Errorf("docker system df:\n%s", out)
	}
	if out := docker("system", "df", "-v"); !strings.Contains(out, "busybox      latest") || !strings.Contains(out, "named") {
		t.Errorf("docker system df -v:\n%s", out)
	}
	if out := docker("image", "prune", "-af"); !strings.Contains(out, "Deleted Images:\nuntagged: second:1\n\nTotal reclaimed space: 0B") {
		t.Errorf("docker image prune -af:\n%s", out)
	}
	out := docker("system", "prune", "-af", "--volumes")
	for _, want := range []string{"Deleted Containers:\n", "Deleted Volumes:\n", "Deleted Images:\nuntagged: busybox:latest\ndeleted: sha256:", "Total reclaimed space: "} {
		if !strings.Contains(out, want) {
			t.Errorf("docker system prune has no %q:\n%s", want, out)
		}
	}
	if out := docker("volume", "prune", "-af"); !strings.HasPrefix(out, "Deleted Volumes:\nnamed\n") {
		t.Errorf("docker volume prune -af:\n%s", out)
	}
	if out := e.Hezi("-H", e.Host, "images", "-q"); out.Out != "" {
		t.Errorf("images are left: %s", out.Out)
	}
	for _, version := range []string{"1.25", "1.41", "1.43"} {
		fill()
		script := `
import sys, docker
d = docker.DockerClient(base_url=sys.argv[1], version=sys.argv[2])
u = d.df()
assert len(u["Images"]) == 1 and u["Images"][0]["Containers"] == 1 and u["LayersSize"] > 500000, u
assert len(u["Containers"]) == 1 and u["Containers"][0]["SizeRw"] >= 100000, u
assert {v["UsageData"]["RefCount"] for v in u["Volumes"]} == {1}, u
assert d.containers.prune()["SpaceReclaimed"] >= 100000
r = d.volumes.prune()
assert len(r["VolumesDeleted"]) == (2 if sys.argv[2] < "1.42" else 1), r
d.api.prune_volumes(filters={"all": ["true"]})
r = d.images.prune(filters={"dangling": False})
assert [x for x in r["ImagesDeleted"] if x.get("Untagged") == "busybox:latest"] and r["SpaceReclaimed"] > 500000, r
`
		cmd := exec.Command("/usr/bin/python3", "-c", script, e.Host, version)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", version, err, out)
		}
	}
}
