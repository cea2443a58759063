package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/registry"
)

// layoutOf is an OCI layout of blobs, whose index names the first of them as
// what kind says.
func layoutOf(t testing.TB, kind string, blobs ...string) []byte {
	t.Helper()
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"io.containerd.image.name":"evil:1"}}]}`, kind, digest.FromString(blobs[0]), len(blobs[0]))
	entries := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", index)}
	for _, b := range blobs {
		entries = append(entries, file("blobs/sha256/"+digest.FromString(b).Encoded(), b))
	}
	return archiveOf(t, entries...)
}

// manifested is an image as blobs: its manifest first.
func manifested(config string, layers ...[]byte) []string {
	list := make([]string, len(layers))
	blobs := []string{"", config}
	for i, l := range layers {
		list[i] = descriptor(ocispec.MediaTypeImageLayerGzip, string(l))
		blobs = append(blobs, string(l))
	}
	blobs[0] = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, ocispec.MediaTypeImageManifest, descriptor(ocispec.MediaTypeImageConfig, config), strings.Join(list, ","))
	return blobs
}

func descriptor(kind, body string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, kind, digest.FromString(body), len(body))
}

func configOf(diffs ...[]byte) string {
	list := make([]string, len(diffs))
	for i, d := range diffs {
		list[i] = fmt.Sprintf("%q", digestOf(d))
	}
	return fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%s]}}`, strings.Join(list, ","))
}

// Whatever an archive holds, it is loaded whole or refused with a sentence, and
// of what is refused nothing stays.
func TestLoadHostile(t *testing.T) {
	s := open(t, registry.Config{})
	outside := filepath.Join(filepath.Dir(s.root), "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 12)
	good := archiveOf(t, dir("d"), file("d/x", "y"))
	climbing := archiveOf(t, entry{name: "l", kind: tar.TypeSymlink, link: up + outside}, file("l/x", "y"))
	linked := archiveOf(t, entry{name: "h", kind: tar.TypeLink, link: up + "etc/passwd"})
	whole := layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf(good), gzipped(t, good))...)
	chain := []string{"{}"}
	for range 6 {
		chain = append([]string{fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`, descriptor(ocispec.MediaTypeImageIndex, chain[0]))}, chain...)
	}
	image := manifested(configOf(good), gzipped(t, good))
	nested := append([]string{fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s,%s]}`, descriptor(ocispec.MediaTypeImageIndex, chain[0]), descriptor(ocispec.MediaTypeImageManifest, image[0]))}, append(chain, image...)...)
	huge := fmt.Sprintf(`{"schemaVersion":2,"x":%q}`, strings.Repeat("x", 10<<20))
	shrunk := strings.Replace(string(layoutOf(t, ocispec.MediaTypeImageManifest, huge)), fmt.Sprintf(`"size":%d`, len(huge)), `"size":10      `, 1)
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"truncated":               {whole[:len(whole)-1024-480], "ends too early"},
		"truncated gzip":          {gzipped(t, append(whole, []byte(noise(5000))...))[:1500], "ends too early"},
		"not an archive":          {[]byte("<html>no"), "the archive cannot be loaded"},
		"truncated layer":         {layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf(good), gzipped(t, good)[:60])...), "cannot be unpacked"},
		"layer is not it":         {layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf([]byte("other")), gzipped(t, good))...), "wrong diff id"},
		"layer links out":         {layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf(linked), gzipped(t, linked))...), "cannot be unpacked"},
		"layer missing":           {layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf(good), gzipped(t, good))[:2]...), "it lacks layer sha256:"},
		"config missing":          {layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf(good), gzipped(t, good))[0]), "no platform is whole"},
		"config is no JSON":       {layoutOf(t, ocispec.MediaTypeImageManifest, manifested("<html>", gzipped(t, good))...), "is no JSON"},
		"config without layers":   {layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf(), gzipped(t, good))...), "its manifest has 1 layers, its config"},
		"manifest is no JSON":     {layoutOf(t, ocispec.MediaTypeImageManifest, "<html>"), "is no JSON"},
		"manifest of 10 MB":       {layoutOf(t, ocispec.MediaTypeImageManifest, huge), "too large for a manifest"},
		"manifest of 10 MB, lied": {[]byte(shrunk), "too large for a manifest"},
		"manifest missing":        {layoutOf(t, ocispec.MediaTypeImageManifest, "{}")[:2048+512], ""},
		"indexes in indexes":      {layoutOf(t, ocispec.MediaTypeImageIndex, nested...), "more than 3 indexes one within the other"},
		"digest climbs":           {layoutOf(t, ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"config":{"digest":"sha256:%s%s"},"layers":[]}`, up, outside)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Load(t.Context(), bytes.NewReader(c.archive), nil, false, func(jsonstream.Message) {})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsDataLoss(err) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			t.Log(err)
			s.background.Wait()
			nothingLeft(t, s)
			if list := ingests(t, s); len(list) > 0 {
				t.Errorf("half written: %v", list)
			}
			if b, l := left(t, s); b+l > 0 {
				t.Errorf("left on disk: %d blobs, %d layers", b, l)
			}
			if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
				t.Errorf("outside: %v %v", list, err)
			}
		})
	}
	load(t, s, whole)
	// A symbolic link that leads out of the layer leads nowhere but into it.
	load(t, s, layoutOf(t, ocispec.MediaTypeImageManifest, manifested(configOf(climbing), gzipped(t, climbing))...))
	if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
		t.Errorf("outside: %v %v", list, err)
	}
}
