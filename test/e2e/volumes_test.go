package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"hezi/test/harness"
)

// mountedAs counts the host's mounts whose line has a text.
func mountedAs(t *testing.T, text string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), text)
}

// TestVolumeMountsAndKilledEngine: what the options of a volume name stays mounted
// for who uses it while the engine is away, and is unmounted when nobody does.
func TestVolumeMountsAndKilledEngine(t *testing.T) {
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	at := "/volumes/kept/_data "
	e.Must(t, "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "kept")
	for _, name := range []string{"one", "two"} {
		e.Must(t, "run", "-d", "--name", name, "-v", "kept:/k", "busybox", "sh", "-c", "echo "+name+" > /k/"+name+"; exec sleep 1000")
	}
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	if n := mountedAs(t, e.Dir+"/data"+at); n != 1 {
		t.Fatalf("mounted %d times after the engine was killed", n)
	}
	e.Must(t, "rm", "-f", "one")
	if out := e.Must(t, "run", "--rm", "-v", "kept:/k", "busybox", "cat", "/k/one", "/k/two"); out != "one\ntwo" {
		t.Errorf("after one of its containers went: %q", out)
	}
	e.Kill()
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	e.Must(t, "rm", "-f", "two")
	eventually(t, "the volume is unmounted", func() error {
		if n := mountedAs(t, e.Dir+"/data"+at); n != 0 {
			return fmt.Errorf("it is mounted %d times", n)
		}
		return nil
	})
	// A container that ends while the engine is away.
	e.Must(t, "run", "-d", "--name", "brief", "-v", "kept:/k", "busybox", "sh", "-c", "while [ ! -e /k/end ]; do sleep 0.05; done")
	e.Kill()
	if err := os.WriteFile(e.Dir+"/data/volumes/kept/_data/end", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.Up(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume is unmounted", func() error {
		if mountedAs(t, e.Dir+"/data"+at) != 0 {
			return errors.New("it is mounted")
		}
		return nil
	})
	e.Must(t, "rm", "brief")
	e.Must(t, "volume", "rm", "kept")
}
