package harness

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Runtimes declares Debian's runc and crun, and our own OCI command, for a
// daemon.json, and gives the values of --runtime to try: the engine's own, these
// by name, and runc by path.
func Runtimes(t testing.TB) (json string, names []string) {
	t.Helper()
	dir := t.TempDir()
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal("install runc: make setup")
	}
	own := filepath.Join(dir, "hezi-oci")
	if err := os.Symlink(filepath.Join(Bin(), "hezi-keeper"), own); err != nil {
		t.Fatal(err)
	}
	declared := map[string]map[string]any{"runc": {"path": "runc"}, "crun": {"path": crun(t, dir)}, "own-oci": {"path": own}}
	text, err := encode(declared)
	if err != nil {
		t.Fatal(err)
	}
	return text, []string{"hezi", "runc", "crun", "own-oci", runc}
}

func encode(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// crun is Debian's crun. It refuses hosts where some controllers are on cgroup v1
// and some on v2: there it is run where the latter are not mounted.
func crun(t testing.TB, dir string) string {
	t.Helper()
	program, err := exec.LookPath("crun")
	if err != nil {
		t.Fatal("install crun: make setup")
	}
	const hybrid = "/sys/fs/cgroup/unified"
	on, err := os.ReadFile(hybrid + "/cgroup.controllers")
	if err != nil || strings.TrimSpace(string(on)) == "" {
		return program
	}
	script := filepath.Join(dir, "crun")
	text := "#!/bin/sh\nexec unshare -m --propagation slave sh -c 'umount " + hybrid + " && exec " + program + " \"$@\"' crun \"$@\"\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}
