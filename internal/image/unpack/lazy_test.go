package unpack

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Layers that others can read lazily are plain ones to us: eStargz is a gzip
// stream of a member for each file, zstd:chunked has frames of zstd for its
// files and skippable frames (RFC 8878, 3.1.2) for its index.
func TestDecompressLazyFormats(t *testing.T) {
	text := sample()[:600_000]
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	skippable := func(b []byte) []byte {
		head := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(b)))
		return append(head, b...)
	}
	var stargz, chunked, indexed bytes.Buffer
	indexed.Write(skippable([]byte("an index")))
	for part := range 6 {
		b := text[part*100_000 : (part+1)*100_000]
		stargz.Write(zipped(t, b))
		for _, out := range []*bytes.Buffer{&chunked, &indexed} {
			out.Write(z.EncodeAll(b, nil))
		}
	}
	chunked.Write(skippable([]byte("an index")))
	chunked.Write(skippable(make([]byte, 64)))
	for name, b := range map[string][]byte{"eStargz": stargz.Bytes(), "zstd:chunked": chunked.Bytes(), "an index first": indexed.Bytes()} {
		for how, open := range map[string]func(io.Reader) (io.ReadCloser, error){"": Decompress, ", known": DecompressKnown} {
			r, err := open(bytes.NewReader(b))
			if err != nil {
				t.Errorf("%s%s: %v", name, how, err)
				continue
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s%s: %d of %d bytes, %v", name, how, len(got), len(text), err)
			}
			r.Close()
		}
	}
}
