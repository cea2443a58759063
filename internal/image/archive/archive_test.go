package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memory is a depot that keeps what it is given.
type memory map[digest.Digest][]byte

func (m memory) Put(_ context.Context, want digest.Digest, size int64, r io.Reader) (digest.Digest, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	got := digest.FromBytes(b)
	if want != "" && got != want || int64(len(b)) != size {
		return "", fmt.Errorf("its content has digest %s and %d bytes", got, len(b))
	}
	m[got] = b
	return got, nil
}

func (m memory) Make(_ context.Context, d ocispec.Descriptor, body []byte) error {
	m[d.Digest] = body
	return nil
}

func (m memory) open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b, ok := m[d.Digest]
	if !ok {
		return nil, errors.New("it is not here")
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m memory) add(mediaType, body string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(body), Size: int64(len(body))}
	m[d.Digest] = []byte(body)
	return d
}

// tarOf is an archive of names and bodies in turn; a name that ends in @ is a
// symbolic link, one that ends in / a folder.
func tarOf(t testing.TB, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		name, body := parts[i], parts[i+1]
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}
		if link, ok := strings.CutSuffix(name, "@"); ok {
			h = &tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: body}
			body = ""
		}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const layoutBody = `{"imageLayoutVersion":"1.0.0"}`

func blobName(body string) string { return "blobs/sha256/" + digest.FromString(body).Encoded() }

func indexBody(body, annotations string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{%s}}]}`,
		ocispec.MediaTypeImageManifest, digest.FromString(body), len(body), annotations)
}

func TestReadForms(t *testing.T) {
	const layer, config = "a layer", `{"os":"linux"}`
	made := manifest{SchemaVersion: 2, MediaType: images.MediaTypeDockerSchema2Manifest,
		Config: ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2Config, Digest: digest.FromString(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: images.MediaTypeDockerSchema2Layer, Digest: digest.FromString(layer), Size: int64(len(layer))}}}
	body, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	dockerID, ociID := digest.FromBytes(body), digest.FromString("{}")
	for name, c := range map[string]struct {
		parts []string
		want  []Image
	}{
		"docker": {[]string{"x/layer.tar", layer, "c.json", config, "manifest.json", `[{"Config":"c.json","RepoTags":["a:1","b:2"],"Layers":["x/layer.tar"]}]`},
			[]Image{{Target: ocispec.Descriptor{Digest: dockerID}, Name: "a:1"}, {Target: ocispec.Descriptor{Digest: dockerID}, Name: "b:2"}}},
		"docker with links": {[]string{"y.tar", layer, "x/layer.tar@", "../z.tar", "z.tar@", "y.tar", "./c.json", config, "./manifest.json", `[{"Config":"c.json","Layers":["x/layer.tar"]}]`},
			[]Image{{Target: ocispec.Descriptor{Digest: dockerID}}}},
		"oci": {[]string{"./", "", "./oci-layout", layoutBody, "./index.json", indexBody("{}", `"io.containerd.image.name":"docker.io/library/x:1"`), blobName("{}"), "{}"},
			[]Image{{Target: ocispec.Descriptor{Digest: ociID}, Name: "docker.io/library/x:1"}}},
		"oci with a word": {[]string{blobName("{}"), "{}", "index.json", indexBody("{}", `"org.opencontainers.image.ref.name":"tool"`), "oci-layout", layoutBody},
			[]Image{{Target: ocispec.Descriptor{Digest: ociID}, Name: "tool"}}},
		"both": {[]string{"oci-layout", layoutBody, "manifest.json", `[{"Config":"gone"}]`, "index.json", indexBody("{}", `"org.opencontainers.image.ref.name":"h/x:1"`), "repositories", "{}"},
			[]Image{{Target: ocispec.Descriptor{Digest: ociID}, Name: "h/x:1"}}},
		"a signature beside": {[]string{"oci-layout", layoutBody, "index.json", indexBody("{}", `"io.containerd.manifest.subject":"x"`)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := memory{}
			var early []Image
			told := 0
			got, err := Read(t.Context(), bytes.NewReader(tarOf(t, c.parts...)), m, func(list []Image) { early, told = list, told+1 })
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("%+v", got)
			}
			for i, g := range got {
				if g.Target.Digest != c.want[i].Target.Digest || g.Name != c.want[i].Name {
					t.Errorf("%s %q, want %s %q", g.Target.Digest, g.Name, c.want[i].Target.Digest, c.want[i].Name)
				}
			}
			if oci := !strings.HasPrefix(name, "docker"); told > 1 || (told == 1) != oci || oci && len(early) != len(got) {
				t.Errorf("told %d times: %v", told, early)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	deep := make([]string, 0, 2*maxStrangers+2)
	for i := range maxStrangers + 1 {
		deep = append(deep, fmt.Sprintf("etc/apt/conf.d/%d", i), "x")
	}
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":            {nil, "it is empty"},
		"no archive":         {[]byte(strings.Repeat("what is this?", 100)), "it is no tar archive"},
		"climbs":             {tarOf(t, "../../etc/passwd", "x"), `it names a file outside of it: "../../etc/passwd"`},
		"absolute":           {tarOf(t, "/etc/passwd", "x"), "it names a file outside of it"},
		"climbs by a link":   {tarOf(t, "x@", "../../etc/passwd"), "it names a file outside of it"},
		"a root file system": {tarOf(t, deep...), `it holds files such as "etc/apt/conf.d/100", not images`},
		"no manifest":        {tarOf(t, "a.json", "{}"), "it has neither manifest.json nor index.json"},
		"of old":             {tarOf(t, "x/layer.tar", "", "repositories", "{}"), "it is of Docker before 1.10"},
		"no layout":          {tarOf(t, "index.json", "{}"), "it has an index.json but no oci-layout"},
		"no index":           {tarOf(t, "oci-layout", layoutBody), "it has an oci-layout but no index.json"},
		"other layout":       {tarOf(t, "oci-layout", `{"imageLayoutVersion":"2.0.0"}`, "index.json", "{}"), `it is of version "2.0.0" of the OCI image layout`},
		"not JSON":           {tarOf(t, "oci-layout", layoutBody, "index.json", "<html>"), "its index.json is not the JSON that it should be"},
		"large":              {tarOf(t, "manifest.json", strings.Repeat(" ", maxJSON+1)), "its manifest.json has more than 8 MiB"},
		"other content":      {tarOf(t, blobName("a"), "b"), "blobs/sha256/"},
		"layer missing":      {tarOf(t, "c", "{}", "manifest.json", `[{"Config":"c","Layers":["x/layer.tar"]}]`), `its manifest.json names "x/layer.tar", which is not in it`},
		"no name":            {tarOf(t, "c", "{}", "l", "", "manifest.json", `[{"Config":"c","RepoTags":["a:1","No Name"],"Layers":["l"]}]`), `its manifest.json has an image named "No Name": invalid reference format`},
		"links in a ring":    {tarOf(t, "a@", "b", "b@", "a", "manifest.json", `[{"Config":"a"}]`), `its manifest.json names "a", which is not in it`},
		"wrong digest":       {tarOf(t, "oci-layout", layoutBody, "index.json", `{"manifests":[{"digest":"sha256:../../x"}]}`), `a manifest with digest "sha256:../../x"`},
		"no image":           {tarOf(t, "oci-layout", layoutBody, "index.json", strings.Replace(indexBody("{}", ""), ocispec.MediaTypeImageManifest, "text/html", 1)), `of media type "text/html", which is no image`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(t.Context(), bytes.NewReader(c.archive), memory{}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	whole := tarOf(t, "a/layer.tar", strings.Repeat("x", 5000))
	if _, err := Read(t.Context(), bytes.NewReader(whole[:2000]), memory{}, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

func TestManyNamesEnd(t *testing.T) {
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		for i := 0; ; i++ {
			if w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d.json", i), Typeflag: tar.TypeSymlink, Linkname: "x"}) != nil {
				return
			}
		}
	}()
	_, err := Read(t.Context(), pr, memory{}, nil)
	pr.Close()
	if err == nil || err.Error() != "it has more than 100000 files" {
		t.Error(err)
	}
}

func TestWriteAndRead(t *testing.T) {
	m := memory{}
	layers := []ocispec.Descriptor{m.add(ocispec.MediaTypeImageLayerGzip, "\x1f\x8bone"), m.add(ocispec.MediaTypeImageLayer, strings.Repeat("two", 1000))}
	config := m.add(ocispec.MediaTypeImageConfig, "{}")
	target := m.add(ocispec.MediaTypeImageManifest, `{"the":"manifest"}`)
	saved := Saved{Target: target, Names: []string{"docker.io/library/a:1", "example.org/b:2"}, Manifest: ocispec.Manifest{Config: config, Layers: layers},
		Blobs: append([]ocispec.Descriptor{layers[0], target, config}, layers[1])}
	other := saved
	other.Names, other.Target = nil, m.add(ocispec.MediaTypeImageManifest, `{"another":"manifest"}`)
	other.Blobs = append([]ocispec.Descriptor{other.Target}, saved.Blobs[2:]...)
	p, err := NewPlan([]Saved{saved, other})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.Write(t.Context(), &b, m.open); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != p.Size() {
		t.Errorf("%d bytes, said were %d", b.Len(), p.Size())
	}
	var order []string
	docker := ""
	for r := tar.NewReader(bytes.NewReader(b.Bytes())); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, h.Name)
		if h.Name == manifestFile {
			body, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			docker = string(body)
		}
	}
	want := []string{"oci-layout", "index.json", "manifest.json", "blobs/", "blobs/sha256/"}
	for _, d := range []ocispec.Descriptor{target, config, other.Target, layers[0], layers[1]} {
		want = append(want, blobPath(d.Digest))
	}
	if fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", order, want)
	}
	if w := fmt.Sprintf(`[{"Config":%q,"RepoTags":["a:1","example.org/b:2"],"Layers":[%q,%q]}]`, blobPath(config.Digest), blobPath(layers[0].Digest), blobPath(layers[1].Digest)); docker != w {
		t.Errorf("got  %s\nwant %s", docker, w)
	}
	back := memory{}
	list, err := Read(t.Context(), &b, back, nil)
	if err != nil || len(list) != 3 || list[1].Name != "example.org/b:2" || list[1].Target.Annotations["org.opencontainers.image.ref.name"] != "2" || list[2].Name != "" {
		t.Fatalf("%+v %v", list, err)
	}
	if len(back) != len(m) {
		t.Errorf("%d blobs of %d", len(back), len(m))
	}
	m[layers[1].Digest] = []byte(strings.Repeat("TWO", 1000))
	if err := p.Write(t.Context(), io.Discard, m.open); err == nil || !strings.Contains(err.Error(), "is damaged on disk") {
		t.Error(err)
	}
}

// An archive of anything gives images whose parts it had, or an error with words.
func FuzzArchive(f *testing.F) {
	for _, parts := range [][]string{
		{"x/layer.tar", "a", "c.json", "{}", "manifest.json", `[{"Config":"c.json","RepoTags":["a:1",""],"Layers":["x/layer.tar"]}]`},
		{"y.tar", "a", "x/layer.tar@", "../y.tar", "c", "{}", "manifest.json", `[{"Config":"c","Layers":["x/layer.tar"]},{}]`},
		{"oci-layout", layoutBody, "index.json", indexBody("{}", `"io.containerd.image.name":"x"`), blobName("{}"), "{}"},
		{"index.json", `{"manifests":[{"digest":"sha256:x","size":-1}]}`, "oci-layout", layoutBody},
		{"manifest.json", `null`}, {"manifest.json", `{"Config":1}`}, {"oci-layout", "[]"}, {"repositories", "x"},
		{"../x", ""}, {"blobs/sha256/x", ""}, {"blobs/sha512/" + strings.Repeat("a", 128), ""}, {"a@", "a"},
	} {
		a := tarOf(f, parts...)
		f.Add(a)
		f.Add(a[:len(a)*2/3])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := memory{}
		list, err := Read(t.Context(), bytes.NewReader(b), m, func([]Image) {})
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		for _, i := range list {
			if i.Target.Digest.Validate() != nil || i.Target.Size < 0 || !images.IsManifestType(i.Target.MediaType) && !images.IsIndexType(i.Target.MediaType) {
				t.Errorf("%+v", i)
			}
		}
		for d, body := range m {
			if digest.FromBytes(body) != d {
				t.Errorf("%s is wrong", d)
			}
		}
	})
}
