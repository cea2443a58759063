package choose

import (
	"os"
	"path/filepath"
	"testing"
)

func TestChoiceIsKeptByItsOwnerAlone(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "layers", "snapshots"), 0o700); err != nil { // of a version with one driver
		t.Fatal(err)
	}
	c, err := read(root)
	if err != nil || c.Driver != "overlay2" {
		t.Fatalf("%+v, %v", c, err)
	}
	left := filepath.Join(root, trialPrefix+"1", "merged")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.Keep(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(left)); !os.IsNotExist(err) {
		t.Errorf("the trial that was killed is left: %v", err)
	}
	if c, err = read(root); err != nil || c.Driver != "overlay2" || !c.kept {
		t.Fatalf("%+v, %v", c, err)
	}
	other, err := For(root, "vfs") // that does not get the data root
	if err != nil || other.Before != "overlay2" {
		t.Fatalf("%+v, %v", other, err)
	}
	if c, err = read(root); err != nil || c.Driver != "overlay2" {
		t.Fatalf("it changed what is kept: %+v, %v", c, err)
	}
	if err := other.Keep(root); err != nil {
		t.Fatal(err)
	}
	if c, err = read(root); err != nil || c.Driver != "vfs" {
		t.Fatalf("%+v, %v", c, err)
	}
}
