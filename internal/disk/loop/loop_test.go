package loop

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// What is asked for fits, and not much more; so it does on a disk that is alike.
func TestSize(t *testing.T) {
	room := func(at string) int64 {
		t.Helper()
		var st unix.Statfs_t
		if err := unix.Statfs(at, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bavail) * st.Bsize
	}
	for _, size := range []int64{1 << 20, 5 << 20, 16<<20 - 1, 16 << 20, 100 << 20, 128 << 20, 1 << 30, 20 << 30, 500 << 30} {
		dir := t.TempDir()
		at, other := filepath.Join(dir, "at"), filepath.Join(dir, "other")
		for _, d := range []string{at, other, filepath.Join(other, "at")} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := Make(t.Context(), size, dir, at); err != nil {
			if errdefs.IsNotImplemented(err) {
				t.Skip(err)
			}
			t.Fatal(err)
		}
		has, alike := room(at), int64(0)
		err := Alike(t.Context(), dir, other, filepath.Join(other, "at"))
		if err == nil {
			alike = room(filepath.Join(other, "at"))
			err = Unmount(filepath.Join(other, "at"))
		}
		if err != nil {
			t.Error(err)
		}
		name := units.BytesSize(float64(size))
		if has < size || has > size+size/10+1<<20 {
			t.Errorf("a disk of %s has %s", name, units.BytesSize(float64(has)))
		}
		if alike < has {
			t.Errorf("a disk like that of %s has %s less", name, units.BytesSize(float64(has-alike)))
		}
		var st unix.Stat_t
		if err := unix.Stat(File(dir), &st); err != nil || st.Blocks*512 > 4<<20+size/1000 {
			t.Errorf("an empty disk of %s takes %s, %v", name, units.BytesSize(float64(st.Blocks*512)), err)
		}
		if list, err := os.ReadDir(at); err != nil || len(list) > 0 {
			t.Errorf("a new disk has %v, %v", list, err)
		}
		if !Mounted(at) {
			t.Error("it is not mounted")
		}
		err = os.WriteFile(filepath.Join(at, "file"), []byte("text"), 0o644)
		if err == nil {
			err = Mount(dir, other) // by the same device
		}
		if text, rerr := os.ReadFile(filepath.Join(other, "file")); err != nil || string(text) != "text" {
			t.Errorf("the same disk in another place: %q, %v, %v", text, rerr, err)
		}
		for _, d := range []string{at, other, at} {
			if err := Unmount(d); err != nil {
				t.Error(err)
			}
		}
	}
}

// A disk that stopped writing as the host's was full does so again when there is space.
func TestMend(t *testing.T) {
	host := t.TempDir()
	if err := unix.Mount("none", host, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("this machine mounts nothing: %v", err)
	}
	dir := filepath.Join(host, "dir")
	at := filepath.Join(dir, "at")
	t.Cleanup(func() {
		if err := errors.Join(Unmount(at), unix.Unmount(host, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Make(t.Context(), 200<<20, dir, at); err != nil {
		if errdefs.IsNotImplemented(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	write := func(name string, size int) error {
		f, err := os.Create(filepath.Join(at, name))
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, size))
		return errors.Join(err, f.Sync(), f.Close())
	}
	if err := errors.Join(write("kept", 1), Mend(dir, at)); err != nil {
		t.Fatal(err)
	}
	for i := 0; writable(at) == nil && i < 100; i++ {
		_ = write("much"+strconv.Itoa(i), 4<<20) // it fails when the host is full
	}
	if err := writable(at); err == nil {
		t.Skip("this kernel's disk goes on writing on a full host")
	}
	for range 2 { // that it is tried again spoils nothing
		if err := Mend(dir, at); err != nil && !strings.Contains(err.Error(), "free space there, then try again") {
			t.Errorf("the host is full: %v", err)
		}
	}
	if err := unix.Mount("none", host, "tmpfs", unix.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(filepath.Join(at, "kept"))
	if err == nil { // who still has it is waited for
		time.AfterFunc(100*time.Millisecond, func() { _ = held.Close() })
	}
	if !Mounted(at) {
		if err := Mount(dir, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := Mend(dir, at); err != nil {
		t.Fatal(err)
	}
	if err := write("more", 40<<20); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(at, "kept")); err != nil || len(text) != 1 {
		t.Errorf("what was written before: %q, %v", text, err)
	}
}
