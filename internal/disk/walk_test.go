package disk

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func du(t *testing.T, dir string) int64 {
	t.Helper()
	out, err := exec.Command("du", "-s", "-x", "--block-size=1", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUsageIsWhatDuCounts(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, strings.Repeat("d/", 200))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"empty": 0, "small": 10, "large": 3 << 20, "in d": 5000} {
		if err := os.WriteFile(filepath.Join(deep, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(deep, "large"), filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(deep, "empty"), 1<<30); err != nil { // a hole
		t.Fatal(err)
	}
	if got, err := Usage(t.Context(), dir); err != nil || got != du(t, dir) {
		t.Errorf("%d, %v; du says %d", got, err, du(t, dir))
	}
	if got, err := Usage(t.Context(), filepath.Join(dir, "absent")); got != 0 || err != nil {
		t.Errorf("%d, %v of what is not there", got, err)
	}
	if got, err := Usage(t.Context(), filepath.Join(dir, "again")); err != nil || got != du(t, filepath.Join(dir, "again")) {
		t.Errorf("%d, %v of a file", got, err)
	}
}
