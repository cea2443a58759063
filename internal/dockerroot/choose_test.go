package dockerroot

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// container stores one that is made of the images of a storage driver, or of containerd's.
func (f fake) container(letter, created, driver string) {
	id := strings.Repeat(letter, 64)
	manifest := ""
	if driver == "overlayfs" {
		manifest = `,"ImageManifest":{}`
	}
	f.write("containers/"+id+"/config.v2.json", `{"ID":"`+id+`","Name":"/`+letter+`","Created":"`+created+`","Driver":"`+driver+`","Config":{}`+manifest+`}`)
}

// TestStores: where Docker has changed how it keeps images, those that it used last come.
func TestStores(t *testing.T) {
	const old, later = "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"
	for name, c := range map[string]struct {
		change     func(f fake)
		containerd string // "own" is that in the data root
		want       string // the store
		refused    string
		warned     string
	}{
		"nothing decides":              {refused: "there are images of Docker's in ROOT/image/overlay2 and in ROOT/containerd/daemon, and no container tells"},
		"the youngest is of the new":   {change: func(f fake) { f.container("a", later, "overlayfs"); f.container("b", old, "overlay2") }, want: "containerd"},
		"the youngest is of the old":   {change: func(f fake) { f.container("a", old, "overlayfs"); f.container("b", later, "overlay2") }, want: "overlay2"},
		"of another driver":            {change: func(f fake) { f.container("a", old, "zfs") }, refused: "no container tells"},
		"said to be the new":           {containerd: "own", want: "containerd"},
		"said to be the old":           {containerd: NoContainerd, want: "overlay2"},
		"the new is damaged":           {change: func(f fake) { f.write(daemonDir+metaFile, "text") }, want: "overlay2", warned: "the images in ROOT/containerd/daemon cannot be read, and those in ROOT/image/overlay2 are taken: "},
		"the new is damaged, and used": {change: func(f fake) { f.write(daemonDir+metaFile, "text"); f.container("a", later, "overlayfs") }, refused: "meta.db"},
		"the old is damaged":           {change: func(f fake) { f.write("image/overlay2/repositories.json", "text") }, want: "containerd", warned: "ROOT/image/overlay2 cannot be read"},
		"a containerd runs":            {change: func(f fake) { f.lock() }, refused: "no container tells"},
		"a containerd runs, for it":    {change: func(f fake) { f.lock(); f.container("a", later, "overlayfs") }, refused: "on which a containerd runs: stop it, too"},
		"a containerd runs, for none":  {change: func(f fake) { f.lock(); f.container("a", later, "overlay2") }, want: "overlay2"},
		"a containerd runs alone":      {change: func(f fake) { f.lock(); f.must(os.RemoveAll(filepath.Join(f.path, "image"))) }, refused: "on which a containerd runs: stop it, too"},
		"none is where it should be":   {change: func(f fake) { f.must(os.RemoveAll(filepath.Join(f.path, "image"))) }, containerd: NoContainerd, refused: "no root of containerd's is at none"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			ours, _ := f.platform("riscv64")
			f.names(map[string]ocispec.Descriptor{"docker.io/library/a:1": ours})
			f.image("overlay2", "overlay2/abc/diff", "abc", map[string]string{"file": "x"})
			if c.change != nil {
				c.change(f)
			}
			if c.containerd == "own" {
				c.containerd = filepath.Join(f.path, daemonDir)
			}
			said := func(text string) string { return strings.ReplaceAll(text, "ROOT", f.path) }
			r, err := Open(f.path, c.containerd)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), said(c.refused)) {
					t.Errorf("%v, want %q", err, said(c.refused))
				}
				return
			}
			f.must(err)
			defer r.Close()
			list := r.Images()
			if len(list) != 1 || (list[0].ID == ours.Digest.String()) != (c.want == "containerd") {
				t.Errorf("%+v, want that of %s", list, c.want)
			}
			if got := strings.Join(r.warnings, "\n"); (got == "") != (c.warned == "") || !strings.Contains(got, said(c.warned)) {
				t.Errorf("warned %q, want %q", got, said(c.warned))
			}
		})
	}
}

// lock holds containerd's database as a containerd does.
func (f fake) lock() {
	db, err := os.Open(filepath.Join(f.path, daemonDir, metaFile))
	f.must(err)
	f.t.Cleanup(func() { _ = db.Close() })
	f.must(syscall.Flock(int(db.Fd()), syscall.LOCK_EX))
}

// TestBadNames: a record that is no good costs itself only.
func TestBadNames(t *testing.T) {
	f := newFake(t)
	ours, _ := f.platform("riscv64")
	f.names(map[string]ocispec.Descriptor{"docker.io/library/a:1": ours, "Scratch Image": ours})
	r := f.open()
	if list := r.Images(); len(list) != 1 || len(list[0].RepoTags) != 1 || len(r.warnings) != 1 || !strings.Contains(r.warnings[0], `image "Scratch Image": not taken under this name: `) {
		t.Errorf("%+v %q", list, r.warnings)
	}
	f = newFake(t)
	id, _ := f.image("overlay2", "overlay2/abc/diff", "abc", map[string]string{"file": "x"})
	f.write("image/overlay2/repositories.json", `{"Repositories":{"a":{"a:1":"`+id.String()+`","Bad Name":"`+id.String()+`"}}}`)
	r = f.open()
	if list := r.Images(); len(list) != 1 || len(list[0].RepoTags) != 1 || len(r.warnings) != 1 || !strings.Contains(r.warnings[0], `"Bad Name" is no name`) {
		t.Errorf("%+v %q", list, r.warnings)
	}
	f = newFake(t)
	f.bolt("volumes/metadata.db", "volumes", map[string]string{"a": "text", "b": `{"Driver":"local"}`})
	f.write("volumes/a/_data/file", "")
	f.write("volumes/b/_data/file", "")
	list, warnings, err := f.open().Volumes()
	if err != nil || len(list) != 2 || len(warnings) != 1 || !strings.Contains(warnings[0], `volume "a": without its labels and options: `) {
		t.Errorf("%+v %q %v", list, warnings, err)
	}
}
