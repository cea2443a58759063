package box

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestRootIs(t *testing.T) {
	const upper = "/data/writable/abc/fs"
	for line, want := range map[string]bool{
		"1 2 0:3 / / rw - overlay overlay rw,lowerdir+=/l,upperdir=/data/writable/abc/fs,workdir=/w":            true,
		"1 2 0:3 / / rw master:1 - overlay overlay rw,lowerdir=l,upperdir=writable/abc/fs,workdir=w":            true,
		"1 2 0:3 / / rw - overlay overlay rw,upperdir=/data/writable/other/fs,workdir=/w":                       false,
		"1 2 0:3 / / rw - overlay overlay rw,lowerdir=/data/writable/abc/fs":                                    false,
		"1 2 0:3 / / rw - ext4 /dev/vda rw":                                                                     false,
		"1 2 0:3 / /proc rw - overlay overlay rw,upperdir=/data/writable/abc/fs":                                false,
		"1 2 0:3 / / rw - ext4 /dev/vda rw\n2 2 0:3 / / rw - overlay overlay rw,upperdir=/data/writable/abc/fs": false,
		"1 2 0:3 / / rw - overlay overlay rw,lowerdir+=/,upperdir=/abc/fs,workdir=/abc/work":                    true,
		"1 2 0:3 / / rw - overlay overlay rw,lowerdir+=/,upperdir=/fs,workdir=/work":                            false,
		"": false, "1 2": false,
	} {
		if got := rootIs([]byte(line+"\n"), upper); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	if _, err := RootOf(os.Getpid(), upper); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our own root was taken for a box's: %v", err)
	}
	if _, err := RootOf(1<<30, upper); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestView(t *testing.T) {
	top := t.TempDir()
	for name, body := range map[string]string{"low/a": "low", "low/b": "low", "mid/b": "mid", "up/c": "up"} {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := View([]string{filepath.Join(top, "up"), filepath.Join(top, "mid"), filepath.Join(top, "low")})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dir, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(root.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for name, want := range map[string]string{"a": "low", "b": "mid", "c": "up"} {
		if b, err := dir.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	if err := dir.WriteFile("x", nil, 0o644); err == nil {
		t.Error("it can be written to")
	}
}
