package harness

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Recipe makes an image of Debian with more packages of it.
type Recipe struct {
	Name     string
	Packages []string
	Then     string   // a shell script that runs after the packages are installed
	Changes  []string // of the configuration, as `commit -c` takes them
}

// StockedRegistry is a registry that has Debian and the images of the recipes as
// library/debian and library/NAME. An engine makes them once and they are kept.
func StockedRegistry(t testing.TB, o *RegistryOptions, recipes ...Recipe) (addr string) {
	t.Helper()
	stock := filepath.Join(cache(), fmt.Sprintf("stock-%.4x", sha256.Sum256(fmt.Appendf(nil, "%q", recipes))))
	if err := fill(t, stock, recipes); err != nil {
		t.Fatal(err)
	}
	return serve(t, stock, o)
}

// serve runs a registry whose data is in a folder that stays.
func serve(t testing.TB, stock string, o *RegistryOptions) (addr string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(stock, filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	addr, stop, err := ServeRegistry(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return addr
}

func fill(t testing.TB, stock string, recipes []Recipe) (err error) {
	t.Helper()
	unlock, err := lock(stock + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(stock); err == nil {
		return nil
	}
	part := stock + ".part"
	if err := errors.Join(os.RemoveAll(part), os.Mkdir(part, 0o755)); err != nil {
		return err
	}
	registry := serve(t, part, &RegistryOptions{})
	debian, err := debianImage(t)
	if err != nil {
		return err
	}
	base := Push(t, registry, "library/debian:latest", debian)
	e, err := New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	for _, r := range recipes {
		if err := e.make(base, registry+"/library/"+r.Name+":latest", r); err != nil {
			return err
		}
	}
	return os.Rename(part, stock)
}

func debianImage(t testing.TB) (v1.Image, error) {
	t.Helper()
	layer, err := tarball.LayerFromFile(Debian(t))
	if err != nil {
		return nil, err
	}
	return imageOf(layer, v1.Config{Cmd: []string{"bash"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}})
}

// make runs a recipe on base, and pushes what has come of it.
func (e *Engine) make(base, name string, r Recipe) error {
	install := "export DEBIAN_FRONTEND=noninteractive\necho 'Acquire::Retries \"3\";' >/etc/apt/apt.conf.d/retries\napt-get update -qq\n" +
		"apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-unsafe-io " + strings.Join(r.Packages, " ") + "\n" +
		"apt-get clean\nrm -rf /var/lib/apt/lists/*\n" + r.Then
	commit := []string{"commit"}
	for _, c := range r.Changes {
		commit = append(commit, "-c", c)
	}
	for _, args := range [][]string{
		{"run", "--name", r.Name, base, "sh", "-ec", install},
		append(commit, r.Name, name),
		{"push", "-q", name},
		{"rm", r.Name},
	} {
		if out, err := e.Command(args...).CombinedOutput(); err != nil {
			return fmt.Errorf("making the image %s: hezi %s: %w\n%s", r.Name, args[0], err, out)
		}
	}
	return nil
}
