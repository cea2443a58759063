package image

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

func TestBackgroundHash(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 3*aheadParts*aheadSize+17)
	for i := range text {
		text[i] = byte(r.Uint32())
	}
	want := sha256.Sum256(text)
	h := newBackgroundHash(sha256.New())
	for rest := text; len(rest) > 0; {
		part := bytes.Clone(rest[:min(len(rest), r.IntN(2*aheadSize))])
		rest = rest[len(part):]
		if n, err := h.Write(part); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
		clear(part) // a writer may use it again
	}
	for range 2 {
		if got := h.end().Sum(nil); !bytes.Equal(got, want[:]) {
			t.Errorf("%x, not %x", got, want)
		}
	}
}
