package box

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSubpathRace: a container that has a volume swaps a directory of it for
// links out of it, over and over, while others mount what lies below the
// directory: they get what is inside, or an error.
func TestSubpathRace(t *testing.T) {
	base := t.TempDir()
	volume, outside := filepath.Join(base, "volume"), filepath.Join(base, "outside")
	for _, dir := range []string{volume + "/swapped/deep", outside + "/deep"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inside, err := os.Stat(volume + "/swapped/deep")
	if err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]string{"relative": "../outside", "absolute": outside, "host": "/proc/self/root" + outside} {
		t.Run(name, func(t *testing.T) {
			other := volume + "/link"
			if err := os.Symlink(link, other); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(other)
			stop := make(chan struct{})
			var racer sync.WaitGroup
			racer.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_ = unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, volume+"/swapped", unix.RENAME_EXCHANGE)
					}
				}
			})
			got, refused := 0, 0
			for range 20000 {
				fd, err := openBelow(volume, "swapped/deep")
				var step *Error
				if errors.As(err, &step) {
					refused++
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				f := os.NewFile(uintptr(fd), "")
				at, err := f.Stat()
				f.Close()
				if err != nil {
					t.Fatal(err)
				}
				if !os.SameFile(at, inside) {
					t.Fatal("it led out of the volume")
				}
				got++
			}
			close(stop)
			racer.Wait()
			if got == 0 || refused == 0 {
				t.Errorf("nothing raced: %d inside, %d refused", got, refused)
			}
			if info, err := os.Lstat(volume + "/swapped"); err != nil || !info.IsDir() { // for the next case
				if err := unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, volume+"/swapped", unix.RENAME_EXCHANGE); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
