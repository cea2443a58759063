package harness

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Tar is an archive of one file.
func Tar(t testing.TB, name string, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))})
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Noise is busybox with layers of some bytes each that nothing compresses; they
// follow from the seed.
func Noise(t testing.TB, seed byte, layers, bytes int) v1.Image {
	t.Helper()
	img, err := Busybox()
	if err != nil {
		t.Fatal(err)
	}
	for i := range layers {
		body := make([]byte, bytes)
		_, _ = rand.NewChaCha8([32]byte{seed, byte(i)}).Read(body)
		img, err = mutate.AppendLayers(img, static.NewLayer(Tar(t, fmt.Sprintf("noise-%d", i), body), types.OCIUncompressedLayer))
		if err != nil {
			t.Fatal(err)
		}
	}
	return img
}
