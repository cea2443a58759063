package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/unpack"
)

// What a user types is a name or an error that says how to write one.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"", "busybox", "a/b:1", "UPPER", "x@sha256:12", "https://x/y", "-x", "a b", "127.0.0.1:5000/x", "[::1]:5000/x", "a:" + strings.Repeat("b", 129), "\x00", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseName(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "invalid reference format") && !strings.Contains(err.Error(), "must") {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := parseName(n.String())
		if err != nil || again.String() != n.String() {
			t.Errorf("%q became %q, then %v, %v", s, n, again, err)
		}
	})
}

// A manifest, an index or a config of anything is used whole or refused.
func FuzzManifest(f *testing.F) {
	for _, s := range []string{
		``, `null`, `[]`, `{}`, `<html>`, `{"schemaVersion":1,"fsLayers":[]}`, `{"layers":null,"manifests":null}`, `{"manifests":[{"digest":"sha256:x"}]}`,
		`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":-1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:../..","size":1}]}`,
		`{"schemaVersion":2,"mediaType":"text/html","layers":[{}]}`, `{"rootfs":{"diff_ids":["x"]}}`, `{"layers":[],"rootfs":{"diff_ids":[]}}`,
	} {
		f.Add([]byte(s), "")
		f.Add([]byte(s), ocispec.MediaTypeImageIndex)
	}
	f.Fuzz(func(t *testing.T, body []byte, kind string) {
		d := ocispec.Descriptor{MediaType: kind}
		if err := settleType(&d, body); err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Errorf("%v", err)
			}
			return
		}
		var m ocispec.Manifest
		var c ocispec.Image
		if json.Unmarshal(body, &m) != nil || json.Unmarshal(body, &c) != nil || checkDescriptors(m.Layers) != nil {
			return
		}
		list, err := layersOf(m, c.RootFS.DiffIDs)
		if err == nil && len(list) != len(m.Layers) {
			t.Errorf("%d layers of %d", len(list), len(m.Layers))
		}
	})
}

// A layer of anything writes only below its folder, in either way of unpacking.
func FuzzLayer(f *testing.F) {
	up := strings.Repeat("../", 40)
	for _, l := range [][]entry{
		{file("a", "1")},
		{dir("d"), file("d/.wh.x", ""), file("d/.wh..wh..opq", "")},
		{file(up+"tmp/x", "1")},
		{{name: "l", kind: tar.TypeSymlink, link: "../outside"}, file("l/new", "x"), file("l/.wh.secret", ""), file(".wh.l", "")},
		{{name: "h", kind: tar.TypeLink, link: "../outside/secret"}, file("h", "x")},
		{{name: "x", body: "1", xattr: map[string]string{"trusted.overlay.opaque": "y", "user.a": "b"}}},
	} {
		plain := archiveOf(f, l...)
		f.Add(plain)
		f.Add(gzipped(f, plain))
		f.Add(zstded(f, plain)[:len(plain)/20])
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		top := t.TempDir()
		outside := filepath.Join(top, "outside")
		if err := os.Mkdir(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		plain, err := unpack.Decompress(bytes.NewReader(blob))
		if err != nil {
			return
		}
		defer plain.Close()
		data, _ := io.ReadAll(io.LimitReader(plain, 1<<20)) // what is broken is seen below
		for _, way := range []string{"alone", "bottom", "over"} {
			root := filepath.Join(top, way)
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			if way == "over" {
				err = unpack.Apply(t.Context(), root, bytes.NewReader(data))
			} else {
				err = unpack.Alone(t.Context(), root, way == "bottom", bytes.NewReader(data))
			}
			if err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
		}
		if got := tree(t, outside); got != "secret=secret\n" {
			t.Errorf("changed outside: %s", got)
		}
		if list, err := os.ReadDir(top); err != nil || len(list) != 4 {
			t.Errorf("beside the layer: %v, %v", list, err)
		}
	})
}
