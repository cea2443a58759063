package unpack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxXZ is the most memory that xz may want: what its strongest preset does.
const maxXZ = 64 << 20

// Decompress recognises gzip, zstd, xz and bzip2 by their first bytes; what is
// none of them is a plain archive. No program is called.
func Decompress(r io.Reader) (io.ReadCloser, error) { return decompress(r, false) }

// DecompressKnown is Decompress for what has a digest, with which the caller
// compares all that is read: the program igzip may do it, which is faster, and
// ignores what follows a stream.
func DecompressKnown(r io.Reader) (io.ReadCloser, error) { return decompress(r, true) }

func decompress(r io.Reader, known bool) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, worthwhile)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return inflate(b, known)
	case isZstd(magic):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("decompress with zstd: %w", err)
		}
		return z.IOReadCloser(), nil
	case bytes.Equal(magic, []byte("\xfd7zX")):
		z, err := xz.NewReader(b, maxXZ)
		if err != nil {
			return nil, fmt.Errorf("decompress with xz: %w", err)
		}
		return io.NopCloser(z), nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	}
	return io.NopCloser(b), nil
}

// isZstd knows zstd's frames and its skippable frames (RFC 8878, 3.1), with
// which zstd:chunked layers may begin.
func isZstd(magic []byte) bool {
	return bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18})
}

// Broken says whether an error is of the bytes of a compressed archive.
func Broken(err error) bool {
	var corrupt flate.CorruptInputError
	var bz bzip2.StructuralError
	if errors.As(err, &corrupt) || errors.As(err, &bz) {
		return true
	}
	for _, is := range []error{
		errInflate, io.ErrUnexpectedEOF, tar.ErrHeader, tar.ErrFieldTooLong, gzip.ErrHeader, gzip.ErrChecksum,
		zstd.ErrMagicMismatch, zstd.ErrCRCMismatch, zstd.ErrReservedBlockType, zstd.ErrUnexpectedBlockSize, zstd.ErrWindowSizeExceeded,
		xz.ErrBuf, xz.ErrData, xz.ErrFormat, xz.ErrMemlimit, xz.ErrOptions,
	} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}
