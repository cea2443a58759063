package box

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
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
		"1 2 254:0 /data/writable/abc/fs / rw - ext4 /dev/vda rw":                                               true,
		"1 2 254:0 /writable/abc/fs / rw - xfs /dev/vdb rw":                                                     true,
		"1 2 254:0 /writable/other/fs / rw - xfs /dev/vdb rw":                                                   false,
		"1 2 254:0 /fs / rw - xfs /dev/vdb rw":                                                                  false,
		"1 2 0:7 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw":                                                true,
		"1 2 0:8 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw":                                                false,
		"": false, "1 2": false,
	} {
		if got := rootIs([]byte(line+"\n"), upper, "0:7"); got != want {
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

// TestClosedDevices: what works on a box's files opens none of the machine's
// devices by them, which a box may put in the place of any file.
func TestClosedDevices(t *testing.T) {
	spec := boxSpec(t, image(t), "sh", "-c", "mknod /zero c 1 5; echo ready; sleep 100")
	upper := spec.Root.Overlay.Upper
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := testRuntime.Start(t.Context(), spec, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = unix.PidfdSendSignal(int(p.PidFD.Fd()), unix.SIGKILL, nil, 0)
			await(t, p)
			removeGroup(t, p)
		}
	}
	defer end()
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	try := func(in *Inside, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		err = in.Do(nil, func() error {
			f, err := os.OpenFile("/zero", os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			return err
		})
		if !errors.Is(err, unix.EACCES) {
			t.Errorf("opening a device: %v", err)
		}
		if err := in.Do(nil, func() error { return os.WriteFile("/file", []byte("x"), 0o644) }); err != nil {
			t.Error(err)
		}
	}
	try(Enter(p.PID, upper))
	if b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/root/file"); string(b) != "x" {
		t.Errorf("the box has %q, %v", b, err)
	}
	if f, err := os.Open("/proc/" + strconv.Itoa(p.PID) + "/root/dev/null"); err != nil {
		t.Errorf("the box's own devices are closed too: %v", err)
	} else {
		f.Close()
	}
	end()
	stopped := boxSpec(t, image(t)).Root.Overlay
	if err := unix.Mknod(filepath.Join(stopped.Upper, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	try(Assemble(&Root{Overlay: &Overlay{Lower: stopped.Lower, Upper: stopped.Upper, Work: stopped.Work}}, nil, false))
}
