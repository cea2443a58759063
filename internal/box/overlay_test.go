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

// TestOverlayWithoutInodes: the kernel mounts an overlay read-only where it cannot make its
// work directory, and says so nowhere but in its log.
func TestOverlayWithoutInodes(t *testing.T) {
	for name, mount := range map[string]func(*Overlay) (int, error){"one by one": mountOverlay, "one string": mountLegacyOverlay} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := unix.Mount("tmpfs", root, "tmpfs", 0, "nr_inodes=8"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
			o := &Overlay{Lower: []string{filepath.Join(root, "lower")}, Upper: filepath.Join(root, "upper"), Work: filepath.Join(root, "work")}
			for _, dir := range []string{o.Lower[0], o.Upper, o.Work} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for i := 0; os.Mkdir(filepath.Join(root, fmt.Sprint(i)), 0o755) == nil; i++ {
			}
			fd, err := mount(o)
			if err == nil {
				unix.Close(fd)
			}
			if step, ok := err.(*Error); !ok || step.Errno != int(unix.ENOSPC) {
				t.Errorf("it is mounted: %v", err)
			}
		})
	}
}
