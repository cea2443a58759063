package choose

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// TestChoiceWithoutInodes: however few are left, the engine starts with the driver that it
// had, so that things can be removed.
func TestChoiceWithoutInodes(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "nr_inodes=200"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
	if err := (Choice{Driver: "overlay2"}).Keep(root); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; os.Mkdir(filepath.Join(root, strconv.Itoa(n)), 0o700) == nil; n++ {
	}
	for free := range 40 {
		if c, err := For(root, ""); err != nil || c.Driver != "overlay2" {
			t.Errorf("%d inodes are left: %+v, %v", free, c, err)
		}
		if err := os.Remove(filepath.Join(root, strconv.Itoa(free))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := For(t.TempDir(), "overlay2"); err != nil {
		t.Error(err)
	}
}

// TestLesser chooses on a file system that cannot hold an overlay's layers: an overlay.
func TestLesser(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c, err := For(filepath.Join(merged, "root"), "")
	if err != nil {
		t.Fatal(err)
	}
	w := c.Warning()
	if c.Driver == "overlay2" || !strings.Contains(w, "the storage driver is "+c.Driver) || !strings.Contains(w, "mount a volume at its data root") || !strings.Contains(w, `"storage-driver": "overlay2"`) {
		t.Errorf("%+v warns %q", c, w)
	}
	if w := (Choice{Driver: "vfs", Reason: "it is set by storage-driver"}).Warning(); w != "" {
		t.Errorf("who asked for it is warned: %s", w)
	}
}
