package harness

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// cache keeps what is slow to build (debootstrap) between runs.
func cache() string {
	dir := os.Getenv("HEZI_TEST_CACHE")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "hezi-fixtures")
	}
	_ = os.MkdirAll(dir, 0o755)
	return dir
}

var busybox = sync.OnceValues(func() (v1.Image, error) {
	layer, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	return Image(layer, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}})
})

// Busybox is an image made from Debian's busybox-static.
func Busybox() (v1.Image, error) { return busybox() }

// Image makes an image of one layer.
func Image(layer []byte, cfg v1.Config) (v1.Image, error) {
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		return nil, err
	}
	return imageOf(l, cfg)
}

func imageOf(layer v1.Layer, cfg v1.Config) (v1.Image, error) {
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Config, cf.OS, cf.Architecture = cfg, "linux", "amd64"
	return mutate.ConfigFile(img, cf)
}

func busyboxLayer() ([]byte, error) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("the busybox fixture: %w: install busybox-static", err)
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	dir := func(name string, mode int64) {
		_ = w.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode})
	}
	file := func(name, body string, mode int64) {
		_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(body))})
		_, _ = io.WriteString(w, body)
	}
	for _, d := range []string{"bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var", "var/spool"} {
		dir(d, 0o755)
	}
	dir("root", 0o700)
	dir("tmp", 0o1777)
	file("bin/busybox", string(program), 0o755)
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			_ = w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeLink, Linkname: "bin/busybox", Mode: 0o755})
		}
	}
	file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n", 0o644)
	file("etc/group", "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\naudio:x:29:www-data\nnogroup:x:65534:\n", 0o644)
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// BusyboxArchive writes busybox:latest as `docker save` does and returns the path.
func BusyboxArchive() (string, error) {
	img, err := Busybox()
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag("busybox:latest")
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(cache(), "busybox-*.tar") // several engines of a test may each want one
	if err != nil {
		return "", err
	}
	f.Close()
	return f.Name(), tarball.WriteToFile(f.Name(), ref, img)
}

// LoadBusybox gives the engine the image busybox:latest.
func (e *Engine) LoadBusybox() error {
	path, err := BusyboxArchive()
	if err != nil {
		return err
	}
	defer os.Remove(path)
	if r := e.Hezi("load", "-i", path); r.Code != 0 {
		return fmt.Errorf("hezi load: %s%s", r.Out, r.Err)
	}
	return nil
}

// Debian is the path of a root file system archive that debootstrap made once.
func Debian(t testing.TB) string {
	t.Helper()
	path, err := DebianArchive()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// DebianArchive is Debian, for programs that are no tests.
func DebianArchive() (path string, err error) {
	path = filepath.Join(cache(), "debian-bookworm.tar")
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "hezi-debian-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	debs := path + ".debs.tar"
	defer os.Remove(debs)
	fetch := func() error {
		return command("debootstrap", "--variant=minbase", "--make-tarball="+debs, "bookworm", filepath.Join(dir, "debs"))
	}
	if err := fetch(); err != nil { // a mirror may be slow once
		if err := fetch(); err != nil {
			return "", err
		}
	}
	root := filepath.Join(dir, "root")
	if err := command("debootstrap", "--variant=minbase", "--unpack-tarball="+debs, "bookworm", root); err != nil {
		return "", err
	}
	if err := command("tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./dev/*", "-cf", path+".part", "."); err != nil {
		return "", err
	}
	return path, os.Rename(path+".part", path)
}

func command(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return nil
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Registry runs Debian's docker-registry on loopback and returns its address.
func Registry(t testing.TB) string {
	t.Helper()
	return RegistryWith(t, &RegistryOptions{})
}

// Push puts an image into a registry.
func Push(t testing.TB, addr, repository string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(addr+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return addr + "/" + repository
}
