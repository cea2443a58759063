package box

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOverlays: both ways of mounting give the same, also with many layers and
// with names that must be escaped.
func TestOverlays(t *testing.T) {
	for name, mount := range map[string]func(*Overlay) (int, error){"one by one": mountOverlay, "one string": mountLegacyOverlay} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), `a,b:c\d`)
			o := &Overlay{Upper: filepath.Join(root, "upper"), Work: filepath.Join(root, "work"), Volatile: true}
			for i := range 100 {
				dir := filepath.Join(root, "layers", fmt.Sprint(100-i), "fs")
				o.Lower = append(o.Lower, dir)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, dir := range []string{o.Upper, o.Work} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			fd, err := mount(o)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			for _, file := range []string{"0", "99"} {
				if err := unix.Faccessat(fd, file, unix.R_OK, 0); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
			f, err := unix.Openat(fd, "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(f)
			if _, err := os.Stat(filepath.Join(o.Upper, "new")); err != nil {
				t.Error(err)
			}
		})
	}
}
