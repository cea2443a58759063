package main

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"

	"hezi/test/harness"
)

var registryDir = flag.String("registry", "", "folder that keeps the registry with the images to pull, for the next run")

// images measures pull, save and load: the Debian root of the tests as one
// layer, and an image of 1 GB in ten layers, both from Debian's docker-registry
// on loopback. Next to a pull stands what no engine can avoid: to gunzip the
// same bytes on the same cores, and to write them to the disk.
func images(e *harness.Engine, rounds int, wanted func(string) bool) (err error) {
	if !wanted("pull") && !wanted("save | load") {
		return nil
	}
	dir := *registryDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "hezi-bench-images-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	addr, stop, err := harness.ServeRegistry(dir, &harness.RegistryOptions{})
	if err != nil {
		return err
	}
	defer stop()
	debian, err := harness.DebianArchive()
	if err != nil {
		return err
	}
	for repository, layers := range map[string][]string{"debian": {""}, "big": {"0/", "1/", "2/", "3/", "4/", "5/", "6/", "7/", "8/", "9/"}} {
		if _, err := os.Stat(filepath.Join(dir, "data/docker/registry/v2/repositories", repository)); err == nil {
			continue
		}
		if err := publish(addr+"/"+repository, debian, dir, layers); err != nil {
			return err
		}
	}
	for _, w := range []work{pullWork(e, "pull 10 layers, 1 GB", addr+"/big"), pullWork(e, "pull Debian, 1 layer", addr+"/debian"), saveWork(e, "save | load 1 GB", addr+"/big")} {
		if wanted(w.name) {
			if err := measure(w, rounds); err != nil {
				return err
			}
		}
	}
	fmt.Printf("hezid after these: %.1f MB PSS, at most %s resident\n", pss(e.PID()), peak(e.PID()))
	return limits(dir, debian)
}

// publish pushes an image whose layers are the archive below other folders.
// Ten times 0.62 of it is 1 GB.
func publish(ref, archive, dir string, prefixes []string) error {
	img := v1.Image(empty.Image)
	for i, prefix := range prefixes {
		path := filepath.Join(dir, fmt.Sprintf("layer-%d.tar.gz", i))
		keep := 1.0
		if len(prefixes) > 1 {
			keep = 0.62
		}
		if err := relocate(path, archive, prefix, keep); err != nil {
			return err
		}
		defer os.Remove(path)
		layer, err := tarball.LayerFromFile(path)
		if err != nil {
			return err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return err
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return err
	}
	to, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(to, img)
}

// relocate copies the first share of an archive below a folder, compressed.
func relocate(path, archive, prefix string, share float64) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	z, err := gzip.NewWriterLevel(out, 3)
	if err != nil {
		return err
	}
	r, w := tar.NewReader(in), tar.NewWriter(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if at, _ := in.Seek(0, io.SeekCurrent); float64(at) > share*float64(st.Size()) {
			break
		}
		h.Name = prefix + h.Name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = prefix + h.Linkname
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return z.Close()
}

func pullWork(e *harness.Engine, label, ref string) work {
	hezi := filepath.Join(harness.Bin(), "hezi")
	w := work{label, []contender{
		{name: "hezi", argv: []string{hezi, "pull", "-q", ref}, before: forget(hezi, ref), env: e.Env()},
	}}
	if host := os.Getenv("DOCKER_BENCH_HOST"); host != "" {
		w.contenders = append(w.contenders, contender{name: "docker", argv: []string{"docker", "pull", "-q", ref}, before: forget("docker", ref), env: append(os.Environ(), "DOCKER_HOST="+host)})
	}
	if _, err := exec.LookPath("podman"); err == nil {
		w.contenders = append(w.contenders, contender{name: "podman", argv: []string{"podman", "pull", "-q", "--tls-verify=false", ref}, before: forget("podman", ref)})
	}
	return w
}

// forget removes an image, whatever other names it has from earlier runs, and
// lets the disk come to rest: what one engine has not synced would be written
// while another one is measured.
func forget(engine, ref string) []string {
	return []string{"sh", "-c", engine + " rmi -f $(" + engine + " images -q " + ref + "); sync; sleep 2"}
}

// saveWork gives each engine the image anew and lets it read what it wrote.
func saveWork(e *harness.Engine, label, ref string) work {
	hezi := filepath.Join(harness.Bin(), "hezi")
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	line := func(engine string) []string {
		return sh("set -e; " + engine + " save " + ref + " | " + engine + " load -q")
	}
	w := work{label, []contender{
		{name: "hezi", argv: line(hezi), before: sh(hezi + " pull -q " + ref), env: e.Env()},
	}}
	if host := os.Getenv("DOCKER_BENCH_HOST"); host != "" {
		w.contenders = append(w.contenders, contender{name: "docker", argv: line("docker"), before: sh("docker pull -q " + ref), env: append(os.Environ(), "DOCKER_HOST="+host)})
	}
	return w
}

// limits prints what the machine itself needs for the Debian layer.
func limits(dir, archive string) error {
	script := fmt.Sprintf(`cd %s && rm -rf x && gzip -1 < %s > a.gz && sync
t() { a=$(date +%%s%%N); "$@"; b=$(date +%%s%%N); echo "$(( (b-a)/1000000 )) ms"; }
echo "gunzip of the Debian layer alone: $(t sh -c 'gunzip < a.gz > /dev/null')"
echo "unpack and write it to the disk:  $(t sh -c 'mkdir x && tar -C x -xf %s && sync -f x')"`, dir, archive, archive)
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	fmt.Print(string(out))
	return err
}
