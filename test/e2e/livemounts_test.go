package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"hezi/test/harness"
)

// TestMountsTakenBack has an engine die while it changes what is mounted in a container,
// before and after it did so: the next one mounts what the record says.
func TestMountsTakenBack(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			e := harness.Start(t)
			if err := e.LoadBusybox(); err != nil {
				t.Fatal(err)
			}
			old, other := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(old, "old"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			id := e.Must(t, "run", "-d", "--name", "half", "-v", old+":/gone", "-v", old+":/both", "--tmpfs", "/mem", "busybox", "sh", "-c", "touch /mem/x; exec sleep 1000")
			file := filepath.Join(e.Dir, "run", "containers", id+".json")
			read := func() (r map[string]any) {
				b, err := os.ReadFile(file)
				if err == nil {
					err = json.Unmarshal(b, &r)
				}
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			record := read()
			change := []string{"update", "--mount-rm", "/gone", "--mount-rm", "/both", "--mount-add", "type=bind,dst=/both,src=" + other,
				"--mount-add", "type=bind,dst=/new,src=" + other, "--mount-add", "type=tmpfs,dst=/new-mem", "half"}
			var points, added, gone []any
			e.Must(t, change...)
			points = read()["Points"].([]any)
			added = points[len(points)-3:]
			for _, p := range record["Points"].([]any) {
				if target := p.(map[string]any)["Target"]; target == "/gone" || target == "/both" {
					gone = append(gone, p)
				}
			}
			if when == "before" { // all as it was
				e.Must(t, "update", "--mount-rm", "/both", "--mount-rm", "/new", "--mount-rm", "/new-mem", "--mount-add", "type=bind,dst=/gone,src="+old, "--mount-add", "type=bind,dst=/both,src="+old, "half")
			}
			e.Kill()
			record["Changing"] = map[string]any{"Run": record["Started"], "Added": added, "Gone": gone}
			b, err := json.Marshal(record)
			if err == nil {
				err = os.WriteFile(file, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Up(); err != nil {
				t.Fatal(err)
			}
			r := e.Hezi("exec", "half", "sh", "-c", `ls /gone /both /mem; grep -c -e " /gone " -e " /both " /proc/mounts; grep -e " /new" /proc/mounts; true`)
			if want := "/both:\nold\n\n/gone:\nold\n\n/mem:\nx\n2\n"; r.Out != want {
				t.Errorf("%q%s, not %q", r.Out, r.Err, want)
			}
			if read()["Changing"] != nil {
				t.Error("the record has the change still")
			}
			e.Must(t, change...)
			e.Must(t, "rm", "-f", "half")
		})
	}
}
