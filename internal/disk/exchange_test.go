package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestExchange(t *testing.T) {
	for name, f := range map[string]func(dir, place string) error{"at once": Exchange, "by renames": exchange} {
		top := t.TempDir()
		dir, place := filepath.Join(top, "dir"), filepath.Join(top, "place")
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "new"), 0o755), os.MkdirAll(filepath.Join(place, "old"), 0o755), f(dir, place)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range []string{filepath.Join(place, "new"), filepath.Join(dir, "old")} {
			if _, err := os.Stat(want); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if list, err := os.ReadDir(top); err != nil || len(list) != 2 {
			t.Errorf("%s: %v, %v", name, list, err)
		}
		// Killed after the first rename, and after the second.
		if err := errors.Join(os.Rename(place, place+asideSuffix), Recover(place)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := errors.Join(os.Mkdir(place+asideSuffix, 0o755), Recover(place)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(place, "new")); err != nil {
			t.Errorf("%s: recovered: %v", name, err)
		}
		if _, err := os.Lstat(place + asideSuffix); err == nil {
			t.Errorf("%s: %s is left", name, place+asideSuffix)
		}
	}
	if err := Recover(filepath.Join(t.TempDir(), "nothing")); err != nil {
		t.Error(err)
	}
}
