package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hezi/test/harness"
)

// A check finds what is broken by hand, names it, and repairs it from the
// registry and from the blobs.
func TestSystemCheck(t *testing.T) {
	e := harness.Start(t)
	registry := harness.Registry(t)
	img, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	ref := harness.Push(t, registry, "busybox:1", img)
	e.Must(t, "pull", ref)
	if out := e.Must(t, "system", "check", "--images"); !strings.Contains(out, "Checked 1 image, 3 blobs and 1 layer (") || !strings.HasSuffix(out, "nothing is wrong.") {
		t.Errorf("a whole store: %s", out)
	}
	data := filepath.Join(e.Dir, "data")
	dirs, err := filepath.Glob(filepath.Join(data, "layers/snapshots/*/fs/etc"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	blobs, err := filepath.Glob(filepath.Join(data, "content/blobs/sha256/*"))
	if err != nil || len(blobs) != 3 {
		t.Fatal(blobs, err)
	}
	damage := func() {
		t.Helper()
		if err := os.Truncate(filepath.Join(dirs[0], "passwd"), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(blobs[0], 1); err != nil {
			t.Fatal(err)
		}
	}
	damage()
	r := e.Hezi("system", "check")
	if r.Code != 1 || !strings.Contains(r.Out, "is truncated: 1 of ") {
		t.Errorf("without --images: %d %s%s", r.Code, r.Out, r.Err)
	}
	r = e.Hezi("system", "check", "--images")
	for _, want := range []string{"is truncated: 1 of ", "has 1 file that is not as unpacked\n", "/etc/passwd is empty: it had ", "  of " + ref, "2 problems found, 0 repaired, 2 left."} {
		if r.Code != 1 || !strings.Contains(r.Out, want) {
			t.Errorf("no %q: %d %s%s", want, r.Code, r.Out, r.Err)
		}
	}
	// What runs is left alone, and said.
	e.Must(t, "run", "-d", "--name", "runs", ref, "sleep", "1000")
	r = e.Hezi("system", "check", "--images", "--repair")
	for _, want := range []string{"repaired: fetched from " + registry + "/busybox", "stop them (hezi stop ", "2 problems found, 1 repaired, 1 left."} {
		if r.Code != 1 || !strings.Contains(r.Out, want) {
			t.Errorf("no %q: %d %s%s", want, r.Code, r.Out, r.Err)
		}
	}
	e.Must(t, "rm", "-f", "runs")
	if out := e.Must(t, "system", "check", "--images", "--repair"); !strings.Contains(out, "repaired: unpacked again from its blob") {
		t.Errorf("the repair: %s", out)
	}
	if out := e.Must(t, "system", "check", "--images", "--format", "{{.Remaining}} {{len .Problems}}"); out != "0 0" {
		t.Errorf("after the repair: %s", out)
	}
	if out := e.Must(t, "run", "--rm", ref, "cat", "/etc/passwd"); !strings.HasPrefix(out, "root:") {
		t.Errorf("%q", out)
	}
}

// Prunes say beforehand what they do, ask, and do it, with Docker's texts.
func TestPrunes(t *testing.T) {
	e := harness.Start(t)
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	layer := func(text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(e.Dir, "layer"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(e.Dir, "layer", "f"), []byte(strings.Repeat(text, 100_000)), 0o644); err != nil {
			t.Fatal(err)
		}
		if r := e.Hezi("import", tarOf(t, filepath.Join(e.Dir, "layer")), "unused:1"); r.Code != 0 {
			t.Fatal(r)
		}
	}
	layer("a")
	layer("b") // the first one is dangling
	e.Must(t, "run", "--name", "stopped", "-v", "/data", "-v", "named:/named", "busybox", "sh", "-c", "dd if=/dev/zero of=/f bs=1M count=3 2>/dev/null; echo x > /data/x")
	e.Must(t, "run", "-d", "--name", "runs", "busybox", "sleep", "1000")
	id := e.Must(t, "inspect", "-f", "{{.Id}}", "stopped")
	anonymous := e.Must(t, "inspect", "-f", `{{range .Mounts}}{{if eq .Destination "/data"}}{{.Name}}{{end}}{{end}}`, "stopped")

	e.Must(t, "system", "check") // the records of layers are written, so that sizes stay
	plan := e.Must(t, "system", "prune", "-a", "--volumes", "--dry-run")
	for _, want := range []string{"Would delete containers:\n" + id + "\n", "Would delete volumes:\n" + anonymous + "\n", "Would delete images:\n", "untagged: unused:1\n", "deleted: sha256:", "Total space that would be reclaimed: "} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan has no %q:\n%s", want, plan)
		}
	}
	if strings.Contains(plan, "busybox") || strings.Contains(plan, "named") {
		t.Errorf("the plan has what is used:\n%s", plan)
	}
	if n := len(strings.Fields(e.Must(t, "ps", "-aq"))); n != 2 {
		t.Errorf("a dry run left %d containers", n)
	}
	r := e.HeziIn([]byte("n\n"), "system", "prune", "-a", "--volumes", "--filter", "label!=x")
	want := "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n  - all anonymous volumes not used by at least one container\n" +
		"  - all images without at least one container associated to them\n  - all build cache\n\n  Items to be pruned will be filtered with:\n  - label!=x\n\nAre you sure you want to continue? [y/N] "
	if r.Code != 0 || r.Out != want {
		t.Errorf("%d %q, not %q", r.Code, r.Out, want)
	}
	if out := e.Must(t, "image", "prune", "--dry-run"); strings.Count(out, "deleted: ") != 1 || strings.Contains(out, "unused:1") {
		t.Errorf("dangling only: %s", out)
	}
	done := e.Must(t, "system", "prune", "-a", "--volumes", "-f")
	said := strings.NewReplacer("Would delete containers", "Deleted Containers", "Would delete volumes", "Deleted Volumes", "Would delete images", "Deleted Images",
		"Total space that would be reclaimed", "Total reclaimed space").Replace(plan)
	if done != said {
		t.Errorf("planned:\n%s\ndone:\n%s", said, done)
	}
	if out := e.Must(t, "images", "--format", "{{.Repository}}"); out != "busybox" {
		t.Errorf("images left: %s", out)
	}
	if out := e.Must(t, "volume", "ls", "-q"); out != "named" {
		t.Errorf("volumes left: %s", out)
	}
	if out := e.Must(t, "volume", "prune", "-af"); !strings.HasPrefix(out, "Deleted Volumes:\nnamed\n\nTotal reclaimed space: ") {
		t.Errorf("%s", out)
	}
	// Images remember when they were used.
	if out := e.Must(t, "images", "--format", "{{.LastUsed}}"); !strings.HasPrefix(out, strconv.Itoa(time.Now().Year())) {
		t.Errorf("last used %q", out)
	}
}

// tarOf makes an archive of a folder and returns its path.
func tarOf(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}
