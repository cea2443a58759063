package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
