package fault

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hezi/test/harness"
)

// hezid is killed at any moment of pulls, loads, imports, removals and prunes.
// What it was in the middle of leaves nothing behind that is not accounted for,
// and nothing that is broken.
func TestKillsLeaveNoOrphans(t *testing.T) {
	e := harness.Start(t)
	registry := harness.Registry(t)
	refs := []string{
		harness.Push(t, registry, "a:1", harness.Noise(t, 1, 4, 2<<20)),
		harness.Push(t, registry, "b:1", harness.Noise(t, 2, 2, 6<<20)),
	}
	archive, err := harness.BusyboxArchive()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(archive) })
	files := filepath.Join(e.Dir, "import.tar")
	if err := os.WriteFile(files, harness.Tar(t, "f", bytes.Repeat([]byte("import"), 300_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	work := [][]string{
		{"pull", refs[0]}, {"pull", refs[1]}, {"load", "-i", archive}, {"import", files, "imported:1"},
		{"rmi", "-f", refs[0]}, {"rmi", "-f", refs[1]}, {"image", "prune", "-af"}, {"create", "busybox"}, {"container", "prune", "-f"},
	}
	kills := 15
	if testing.Short() {
		kills = 4
	}
	for kill := range kills {
		done := make(chan struct{})
		stop := make(chan struct{})
		for range 2 {
			go func() {
				defer func() { done <- struct{}{} }()
				for {
					select {
					case <-stop:
						return
					default:
						e.Hezi(work[rand.N(len(work))]...) // many fail: the engine goes away
					}
				}
			}()
		}
		time.Sleep(time.Duration(100+rand.N(900)) * time.Millisecond)
		e.Kill()
		close(stop)
		<-done
		<-done
		if err := e.Up(); err != nil {
			t.Fatalf("after kill %d: %v", kill, err)
		}
	}
	if r := e.Hezi("system", "check", "--images"); r.Code != 0 {
		t.Errorf("something is broken:\n%s%s", r.Out, r.Err)
	}
	for _, ref := range refs { // and all still works
		e.Must(t, "pull", ref)
		if out := e.Must(t, "run", "--rm", ref, "echo", "works"); out != "works" {
			t.Errorf("%q", out)
		}
	}
	e.Must(t, "container", "prune", "-f")
	e.Must(t, "image", "prune", "-af")
	data := filepath.Join(e.Dir, "data")
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		left = nil
		for _, dir := range []string{"content/blobs/sha256", "content/ingest", "layers/snapshots", "trash", "containers", "writable"} {
			_ = filepath.WalkDir(filepath.Join(data, dir), func(path string, d fs.DirEntry, err error) error {
				if name := d.Name(); err != nil || path == filepath.Join(data, dir) || name == "base" {
					if d.IsDir() && name == "base" {
						return fs.SkipDir
					}
					return nil
				}
				left = append(left, path)
				return nil
			})
		}
		if len(left) == 0 {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	var rows []struct{ Type, Size string }
	for line := range strings.Lines(e.Must(t, "system", "df", "--format", "json")) {
		var row struct{ Type, Size string }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		if row.Size != "0B" && row.Type != "Metadata" && row.Type != "Reserve" {
			t.Errorf("%s takes %s", row.Type, row.Size)
		}
	}
}
