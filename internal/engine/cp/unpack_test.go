package cp

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoFileIsOpened: whoever puts a FIFO in the place of a file, all the while,
// keeps nobody waiting who unpacks one there.
func TestNoFileIsOpened(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make such files and owners")
	}
	dir := t.TempDir()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	tree := Tree{Root: root, Do: func(f func() error) error {
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // which ends with its root
			err := unix.Unshare(unix.CLONE_FS)
			if err == nil {
				err = unix.Chroot(dir)
			}
			if err == nil {
				err = f()
			}
			done <- err
		}()
		return <-done
	}}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				_ = unix.Mkfifo(filepath.Join(dir, "x"), 0o600)
			}
		}
	}()
	ended := make(chan int, 1)
	go func() {
		good := 0
		for range 500 {
			if tree.Extract(t.Context(), "/", bytes.NewReader(b.Bytes()), Options{}) == nil {
				good++
			}
		}
		ended <- good
	}()
	select {
	case good := <-ended:
		t.Logf("%d of 500 were written", good)
	case <-time.After(time.Minute):
		t.Fatal("an extraction waits for somebody to read a FIFO")
	}
}
