package dockerroot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
	bolt "go.etcd.io/bbolt"
)

// fake is a data root that a test makes.
type fake struct {
	t    *testing.T
	path string
}

func newFake(t *testing.T) fake {
	f := fake{t, filepath.Join(t.TempDir(), "docker")}
	f.bolt("volumes/metadata.db", "volumes", nil)
	f.write("image/overlay2/repositories.json", `{"Repositories":{}}`)
	return f
}

func (f fake) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f fake) write(name, body string) {
	f.t.Helper()
	at := filepath.Join(f.path, name)
	f.must(os.MkdirAll(filepath.Dir(at), 0o755))
	f.must(os.WriteFile(at, []byte(body), 0o644))
}

func (f fake) bolt(name, bucket string, pairs map[string]string) {
	f.t.Helper()
	at := filepath.Join(f.path, name)
	f.must(os.MkdirAll(filepath.Dir(at), 0o755))
	db, err := bolt.Open(at, 0o600, nil)
	f.must(err)
	defer db.Close()
	f.must(db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		for k, v := range pairs {
			err = b.Put([]byte(k), []byte(v))
		}
		return err
	}))
}

// image stores an image with one layer of these files as Docker does, with the files in
// tree; it returns its id, and the layer's archive.
func (f fake) image(driver, tree, cacheID string, contents map[string]string) (digest.Digest, []byte) {
	f.t.Helper()
	var archive, split bytes.Buffer
	w := tar.NewWriter(&archive)
	var names []string
	for name := range contents {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f.must(w.WriteHeader(&tar.Header{Name: name, Mode: 0o640, Size: int64(len(contents[name])), Uid: 7, Format: tar.FormatGNU}))
		_, err := w.Write([]byte(contents[name]))
		f.must(err)
		if !strings.Contains(name, "..") {
			f.write(filepath.Join(tree, name), contents[name])
		}
	}
	f.must(w.Close())
	whole := archive.Bytes()
	z := gzip.NewWriter(&split)
	in, done, err := asm.NewInputTarStreamWithDone(bytes.NewReader(whole), storage.NewJSONPacker(z), nil)
	f.must(err)
	_, err = io.Copy(io.Discard, in)
	f.must(err)
	f.must(<-done)
	f.must(z.Close())
	diff := digest.FromBytes(whole)
	config := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + diff.String() + `"]}}`
	id := digest.FromString(config)
	f.write("image/"+driver+"/repositories.json", `{"Repositories":{"a":{"a:1":"`+id.String()+`","a@`+diff.String()+`":"`+id.String()+`"}}}`)
	f.write("image/"+driver+"/imagedb/content/sha256/"+id.Encoded(), config)
	at := "image/" + driver + "/layerdb/sha256/" + identity.ChainID([]digest.Digest{diff}).Encoded() + "/"
	f.write(at+"diff", diff.String())
	f.write(at+"cache-id", cacheID)
	f.write(at+"tar-split.json.gz", split.String())
	return id, whole
}

func (f fake) open() *Root {
	f.t.Helper()
	r, err := Open(f.path, "")
	f.must(err)
	f.t.Cleanup(r.Close)
	return r
}

// refused is the error of an open.
func (f fake) refused() string {
	f.t.Helper()
	r, err := Open(f.path, "")
	if err == nil {
		r.Close()
		f.t.Error("it was opened")
		return ""
	}
	return err.Error()
}

// save is the archive of an image, or the error.
func save(r *Root, ref string) ([]byte, error) {
	write, err := r.Save([]string{ref})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = write(context.Background(), &out)
	return out.Bytes(), err
}

// TestLayers: a layer is the same to the byte, whichever driver has its files.
func TestLayers(t *testing.T) {
	for driver, tree := range trees {
		t.Run(driver, func(t *testing.T) {
			f := newFake(t)
			folder := strings.Replace(tree, "%s", "abc123", 1)
			id, layer := f.image(driver, folder, "abc123", map[string]string{"a": "one", "d/empty": "", "d/b": strings.Repeat("two", 5000)})
			r := f.open()
			for _, ref := range []string{"a:1", id.String(), id.Encoded()[:12]} {
				got, err := save(r, ref)
				if err != nil {
					t.Fatalf("%s: %v", ref, err)
				}
				if named := bytes.Contains(got, []byte(`"a:1"`)); named != (ref == "a:1") {
					t.Errorf("%s: the archive names it: %v", ref, named)
				}
				found := false
				for in := tar.NewReader(bytes.NewReader(got)); ; {
					h, err := in.Next()
					if err == io.EOF {
						break
					}
					f.must(err)
					if h.Name == "blobs/sha256/"+digest.FromBytes(layer).Encoded() {
						body, err := io.ReadAll(in)
						f.must(err)
						found = bytes.Equal(body, layer)
					}
				}
				if !found {
					t.Errorf("%s: the layer is not in the archive as it was", ref)
				}
			}
			i, err := r.Image("a@" + digest.FromBytes(layer).String())
			if err != nil || i.ID != id.String() || !slices.Equal(i.RepoTags, []string{"a:1"}) || len(i.RootFS.Layers) != 1 {
				t.Errorf("by digest: %+v %v", i, err)
			}
			if _, err := r.Image("none"); err == nil {
				t.Error("an image that is not there was found")
			}
		})
	}
}

// TestHostileLayers: what a data root says about its layers leads nowhere else.
func TestHostileLayers(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hidden"), 0o600); err != nil {
		t.Fatal(err)
	}
	const tree = "overlay2/abc/diff"
	for name, c := range map[string]struct {
		spoil func(f fake)
		want  string
	}{
		"a changed file":            {func(f fake) { f.write(tree+"/file", "hiddem") }, "checksum failed"},
		"a longer file":             {func(f fake) { f.write(tree+"/file", "hidden and more") }, ""},
		"no file":                   {func(f fake) { f.must(os.Remove(filepath.Join(f.path, tree, "file"))) }, "no such file"},
		"a link out of it":          {func(f fake) { f.link(tree+"/file", secret) }, "no such file"},
		"a link up":                 {func(f fake) { f.link(tree+"/file", strings.Repeat("../", 20)+secret) }, "no such file"},
		"a pipe":                    {func(f fake) { f.pipe(tree + "/file") }, "is no file"},
		"a cache id that is a path": {func(f fake) { f.layerFile("cache-id", "../../x") }, "cache-id is damaged"},
		"another layer":             {func(f fake) { f.layerFile("diff", digest.FromString("x").String()) }, "another one"},
		"a tree that is a link":     {func(f fake) { f.link(tree, filepath.Dir(secret)) }, "escapes"},
		"no list":                   {func(f fake) { f.layerFile("tar-split.json.gz", "") }, "damaged"},
		"a list that is cut":        {func(f fake) { f.cut("tar-split.json.gz") }, "damaged"},
		"a list that is a pipe":     {func(f fake) { f.pipe(f.layerPath("tar-split.json.gz")) }, "is no file"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.image("overlay2", tree, "abc", map[string]string{"file": "hidden"})
			c.spoil(f)
			got, err := save(f.open(), "a:1")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q; %d bytes", err, c.want, len(got))
			}
		})
	}
	t.Run("a name that leads out of it", func(t *testing.T) {
		f := newFake(t)
		f.image("overlay2", tree, "abc", map[string]string{strings.Repeat("../", 20) + secret: "hidden", "x": ""})
		if got, err := save(f.open(), "a:1"); err == nil {
			t.Errorf("%d bytes were read", len(got))
		}
	})
	t.Run("a configuration that is another's", func(t *testing.T) {
		f := newFake(t)
		id, _ := f.image("overlay2", tree, "abc", map[string]string{"file": "hidden"})
		f.write("image/overlay2/imagedb/content/sha256/"+id.Encoded(), "{}")
		if _, err := f.open().Image("a:1"); err == nil || !strings.Contains(err.Error(), "its digest is") {
			t.Error(err)
		}
	})
	t.Run("a driver without folders", func(t *testing.T) {
		f := newFake(t)
		f.image("zfs", tree, "abc", map[string]string{"file": "hidden"})
		if _, err := save(f.open(), "a:1"); err == nil || !strings.Contains(err.Error(), "storage driver zfs has no folders") {
			t.Error(err)
		}
	})
}

func (f fake) layerPath(name string) string {
	f.t.Helper()
	at, err := filepath.Glob(filepath.Join(f.path, "image/overlay2/layerdb/sha256/*/"+name))
	if err != nil || len(at) != 1 {
		f.t.Fatal(at, err)
	}
	rel, err := filepath.Rel(f.path, at[0])
	f.must(err)
	return rel
}

func (f fake) layerFile(name, body string) { f.write(f.layerPath(name), body) }

func (f fake) cut(name string) {
	info, err := os.Stat(filepath.Join(f.path, f.layerPath(name)))
	f.must(err)
	f.must(os.Truncate(filepath.Join(f.path, f.layerPath(name)), info.Size()/2))
}

func (f fake) link(name, to string) {
	f.must(os.RemoveAll(filepath.Join(f.path, name)))
	f.must(os.MkdirAll(filepath.Dir(filepath.Join(f.path, name)), 0o755))
	f.must(os.Symlink(to, filepath.Join(f.path, name)))
}

func (f fake) pipe(name string) {
	f.must(os.RemoveAll(filepath.Join(f.path, name)))
	f.must(os.MkdirAll(filepath.Dir(filepath.Join(f.path, name)), 0o755))
	f.must(syscall.Mkfifo(filepath.Join(f.path, name), 0o600))
}

// TestOpen: what stands in the way is said.
func TestOpen(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(f fake)
		want  string
	}{
		"no database":        {func(f fake) { f.must(os.Remove(filepath.Join(f.path, "volumes/metadata.db"))) }, "is no data root of Docker's"},
		"not there":          {func(f fake) { f.must(os.RemoveAll(f.path)) }, "there is no data root"},
		"a database of text": {func(f fake) { f.write("volumes/metadata.db", "text") }, "metadata.db"},
		"a database's pipe":  {func(f fake) { f.pipe("volumes/metadata.db") }, "is no file"},
		"a database's link":  {func(f fake) { f.link("volumes/metadata.db", "/etc/passwd") }, "escapes"},
		"names of text":      {func(f fake) { f.write("image/overlay2/repositories.json", "text") }, "repositories.json is damaged"},
		"no images":          {func(f fake) { f.must(os.RemoveAll(filepath.Join(f.path, "image"))) }, "name it with --containerd-root"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c.spoil(f)
			if got := f.refused(); !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	t.Run("a Docker that runs", func(t *testing.T) {
		f := newFake(t)
		db, err := bolt.Open(filepath.Join(f.path, "volumes/metadata.db"), 0, nil) // as dockerd has it
		f.must(err)
		if got := f.refused(); !strings.Contains(got, "a Docker daemon runs on "+f.path) {
			t.Error(got)
		}
		f.must(db.Close())
		f.open()
		locked, err := os.Open(filepath.Join(f.path, "volumes/metadata.db"))
		f.must(err)
		defer locked.Close()
		if err := syscall.Flock(int(locked.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
			t.Errorf("Docker could start while its data root is read: %v", err)
		}
	})
}

// TestDamagedDatabases: a database that is cut or overwritten is an error, not an end.
func TestDamagedDatabases(t *testing.T) {
	f := newFake(t)
	pairs := map[string]string{}
	for i := range 2000 {
		pairs[digest.FromString(string(rune(i))).Encoded()] = `{"Driver":"local"}`
	}
	f.bolt("volumes/metadata.db", "volumes", pairs)
	whole, err := os.ReadFile(filepath.Join(f.path, "volumes/metadata.db"))
	f.must(err)
	for at := 2 * 4096; at < len(whole); at += 4096 {
		bad := slices.Clone(whole)
		for i := range 64 {
			bad[at+i] = 0xff
		}
		f.write("volumes/metadata.db", string(bad))
		if r, err := Open(f.path, ""); err == nil {
			_, _, _ = r.Volumes() // it may be a page that nobody needs
			r.Close()
		}
		f.write("volumes/metadata.db", string(whole[:at]))
		if r, err := Open(f.path, ""); err == nil {
			_, _, _ = r.Volumes()
			r.Close()
		}
	}
}

func TestVolumes(t *testing.T) {
	f := newFake(t)
	f.bolt("volumes/metadata.db", "volumes", map[string]string{
		"labelled": `{"Name":"../x","Driver":"local","Labels":{"a":"b"}}`, "plugin": `{"Driver":"nfs"}`, "gone": `{"Driver":"local"}`,
		"../../etc": `{"Driver":"local"}`,
	})
	f.write("volumes/labelled/_data/file", "")
	f.write("volumes/old/_data/file", "")
	f.write("volumes/old/opts.json", `{"MountType":"tmpfs","MountDevice":"tmpfs","MountOpts":"size=1m","Quota":{"Size":7}}`)
	f.write("volumes/bad/_data/file", "")
	f.write("volumes/bad/opts.json", "text")
	f.link("volumes/link/_data", "/etc")
	list, warnings, err := f.open().Volumes()
	f.must(err)
	got, err := json.Marshal(list)
	f.must(err)
	want := `[{"Name":"labelled","Driver":"local","Mountpoint":"` + f.path + `/volumes/labelled/_data","Labels":{"a":"b"},"Scope":"","Options":null},` +
		`{"Name":"old","Driver":"local","Mountpoint":"` + f.path + `/volumes/old/_data","Labels":null,"Scope":"","Options":{"device":"tmpfs","o":"size=1m","size":"7","type":"tmpfs"}},` +
		`{"Name":"plugin","Driver":"nfs","Mountpoint":"","Labels":null,"Scope":"","Options":null}]`
	if !sameJSON(t, string(got), want) {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0], "volume bad: not taken: ") || !strings.Contains(warnings[1], "is no folder") {
		t.Errorf("%q", warnings)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatal(err)
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

func TestNetworks(t *testing.T) {
	f := newFake(t)
	const index = "\x07\x00\x00\x00\x00\x00\x00\x00"
	f.bolt(networksFile, "libnetwork", map[string]string{
		networksPrefix + "1/": index + `{"id":"1","name":"asked","networkType":"bridge","scope":"local","enableIPv6":true,"labels":{"a":"b"},"generic":{"com.docker.network.generic":{"o":"v"}},
			"ipamType":"default","ipamV4Config":"[{\"PreferredPool\":\"10.0.0.0/24\",\"SubPool\":\"10.0.0.128/25\",\"Gateway\":\"10.0.0.9\",\"AuxAddresses\":{\"h\":\"10.0.0.5\"}}]",
			"ipamV4Info":"[{\"IPAMData\":\"{\\\"Pool\\\":\\\"10.9.0.0/24\\\"}\"}]","ipamV6Config":"[{\"PreferredPool\":\"fd00::/64\"}]"}`,
		networksPrefix + "2/": index + `{"id":"2","name":"chosen","networkType":"bridge","scope":"local","enableIPv4":true,"internal":true,"ipamV4Config":"[{\"PreferredPool\":\"\"}]",
			"ipamV4Info":"[{\"IPAMData\":\"{\\\"Gateway\\\":\\\"172.18.0.1/16\\\",\\\"Pool\\\":\\\"172.18.0.0/16\\\"}\"}]"}`,
		networksPrefix + "3/":                  index + `{"name":"half","inDelete":true}`,
		"docker/network/v1.0/bridge/1/":        index + `{}`,
		"docker/network/v1.0/endpoint/1/2/":    index + `{}`,
		"docker/network/v1.0/endpoint_count/1": "x",
	})
	list, _, err := f.open().Networks()
	f.must(err)
	if len(list) != 2 || list[0].Name != "asked" || list[1].Name != "chosen" {
		t.Fatalf("%+v", list)
	}
	a, c := list[0], list[1]
	if got := a.IPAM.Config; len(got) != 2 || got[0].Subnet.String() != "10.0.0.0/24" || got[0].IPRange.String() != "10.0.0.128/25" || got[0].Gateway.String() != "10.0.0.9" ||
		got[0].AuxAddress["h"].String() != "10.0.0.5" || got[1].Subnet.String() != "fd00::/64" || !a.EnableIPv6 || a.Options["o"] != "v" || a.Labels["a"] != "b" {
		t.Errorf("%+v", a)
	}
	if got := c.IPAM.Config; len(got) != 1 || got[0].Subnet.String() != "172.18.0.0/16" || got[0].Gateway.String() != "172.18.0.1" || !c.Internal || !c.EnableIPv4 {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"short", index + "text", index + `{"name":"x","ipamV4Config":"[{\"PreferredPool\":\"all\"}]"}`, index + `{"name":"x","generic":{"com.docker.network.generic":{"o":1}}}`} {
		f := newFake(t)
		f.bolt(networksFile, "libnetwork", map[string]string{networksPrefix + "1/": bad, networksPrefix + "2/": index + `{"name":"good"}`})
		if list, warnings, err := f.open().Networks(); err != nil || len(list) != 1 || len(warnings) != 1 || !strings.Contains(warnings[0], ": not taken: ") {
			t.Errorf("%q: %+v %q %v", bad, list, warnings, err)
		}
	}
}

func TestContainers(t *testing.T) {
	f := newFake(t)
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	dir := func(id string) string { return "containers/" + id + "/" }
	f.write(dir(a)+"config.v2.json", `{"ID":"`+a+`","Name":"/web","Created":"2020-01-01T00:00:00Z","Image":"sha256:1","Config":{"Image":"a:1","MacAddress":"02:42:00:00:00:01"},
		"NetworkSettings":{"Networks":{"bridge":{"NetworkID":"n1","IPAMConfig":{"IPv4Address":"172.17.0.9"},"IPAMOperational":true,"IPAddress":"172.17.0.9","MacAddress":"02:42:00:00:00:09"}}},
		"MountPoints":{"/v":{"Name":"v","Driver":"local","Destination":"/v","RW":true},"/b":{"Source":"/b","Destination":"/b"}}}`)
	f.write(dir(a)+"hostconfig.json", `{"NetworkMode":"default","Links":["`+b[:12]+`:/web/db"]}`)
	f.write(dir(b)+"config.v2.json", `{"ID":"`+b+`","Name":"/db","Created":"2021-01-01T00:00:00Z","State":{"Dead":true},"Config":{}}`)
	f.write(dir(c)+"config.v2.json", "text")
	f.write("containers/odd/config.v2.json", "{}")
	r := f.open()
	list, err := r.Containers()
	f.must(err)
	if len(list) != 3 || list[0].Names[0] != "/db" || list[1].Names[0] != "/web" || list[2].Names[0] != "/"+c[:12] {
		t.Errorf("%+v", list)
	}
	got, err := r.Container(a)
	f.must(err)
	e := got.NetworkSettings.Networks["bridge"]
	if !slices.Equal(got.HostConfig.Links, []string{"/db:/web/db"}) || e.IPAMConfig != nil || e.IPAddress.IsValid() || e.MacAddress.String() != "02:42:00:00:00:01" {
		t.Errorf("%+v %+v", got.HostConfig.Links, e)
	}
	f.write(dir(a)+"hostconfig.json", `{"NetworkMode":"n1"}`) // by the network's id
	if byID, err := r.Container(a); err != nil || byID.NetworkSettings.Networks["bridge"].MacAddress.String() != "02:42:00:00:00:01" {
		t.Errorf("%+v %v", byID.NetworkSettings, err)
	}
	if len(got.Mounts) != 2 || got.Mounts[0].Type != "bind" || got.Mounts[1].Type != "volume" {
		t.Errorf("%+v", got.Mounts)
	}
	for id, want := range map[string]string{b: "was removing it", c: "damaged", "../x": "No such container"} {
		if _, err := r.Container(id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
	f.pipe(dir(c) + "config.v2.json")
	if _, err := r.Container(c); err == nil || !strings.Contains(err.Error(), "is no file") {
		t.Error(err)
	}
	f.link(dir(c)+"config.v2.json", "/etc/passwd")
	if _, err := r.Container(c); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Error(err)
	}
}
