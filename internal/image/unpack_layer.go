package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/readahead"
	"github.com/therootcompany/xz"
	"golang.org/x/sys/unix"
)

// tap reads a blob, as it is stored, while it arrives.
type tap func(ctx context.Context, r tapReader) error

type tapReader = io.Reader

// errNeedsParents says that a layer cannot be unpacked on its own: it names
// things that only the layers below have.
var errNeedsParents = errors.New("the layer builds on files of the layers below")

// needsParents says whether an unpacking failed in a way in which it may not
// fail over the layers below: a hard link to a file of theirs, or a folder.
func needsParents(err error) bool {
	for _, is := range []error{errNeedsParents, fs.ErrNotExist, fs.ErrExist, unix.ENOTDIR, unix.ELOOP, unix.ENOTEMPTY, unix.EISDIR} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// staged is a layer that is unpacked but has no place in a chain yet.
type staged struct {
	s     *depot
	layer layer
	key   string // of the active snapshot
	path  string // where its files are
	// rebase: the snapshot was made without the layers below and is put on
	// top of them when it is committed.
	rebase bool
	since  int // of the flusher
}

// stage unpacks a layer into a directory of its own, without the layers
// below, in overlay's form of whiteouts.
func (s *depot) stage(ctx context.Context, l layer, r io.Reader) (*staged, error) {
	return s.stageFresh(ctx, l, r, func(root string, r io.Reader) error {
		return unpackAlone(ctx, root, l.parent == "", r)
	})
}

// stageBottom is stage for a lowest layer whose entries go through its own
// links, or come before their folders.
func (s *depot) stageBottom(ctx context.Context, l layer, r io.Reader) (*staged, error) {
	h := hider{made: make(map[string]struct{})}
	return s.stageFresh(ctx, l, r, func(root string, r io.Reader) error {
		_, err := archive.Apply(ctx, root, r, archive.WithFilter(clean), archive.WithConvertWhiteout(h.whiteout))
		return err
	})
}

func (s *depot) stageFresh(ctx context.Context, l layer, r io.Reader, unpack unpacker) (_ *staged, err error) {
	st, mounts, err := s.prepare(ctx, l, "")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			st.abort(ctx)
		}
	}()
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return nil, fmt.Errorf("the store of layers gave %v for an empty layer: %w", mounts, errdefs.ErrInternal)
	}
	st.path, st.rebase = mounts[0].Source, l.parent != ""
	if err := s.apply(ctx, l, st.path, r, unpack); err != nil {
		return nil, err
	}
	return st, nil
}

// stageOver unpacks a layer over the mounted layers below.
func (s *depot) stageOver(ctx context.Context, l layer, r io.Reader) (_ *staged, err error) {
	st, mounts, err := s.prepare(ctx, l, l.parent.String())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			st.abort(ctx)
		}
	}()
	if len(mounts) != 1 {
		return nil, fmt.Errorf("the store of layers gave %v for a layer over others: %w", mounts, errdefs.ErrInternal)
	}
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			st.path = dir
		}
	}
	h := hider{made: make(map[string]struct{})}
	err = over(mounts[0], func(root string) error {
		return s.apply(ctx, l, root, r, func(root string, r io.Reader) error {
			_, err := archive.Apply(ctx, root, r, archive.WithFilter(clean), archive.WithConvertWhiteout(h.whiteout))
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// stageStored gives the stored blob to f.
func (s *depot) stageStored(ctx context.Context, l layer, w watch, f func(context.Context, layer, io.Reader) (*staged, error)) (*staged, error) {
	ra, err := s.blobs.ReaderAt(ctx, l.blob)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	r := &counter{r: content.NewReader(ra), w: w, step: step{status: statusExtracting, total: ra.Size()}}
	return f(ctx, l, r)
}

// counter shows how much was read.
type counter struct {
	r io.Reader
	w watch
	step
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.current += int64(n)
	c.w(c.step)
	return n, err
}

// prepare makes an empty snapshot on parent, "" for none.
func (s *depot) prepare(ctx context.Context, l layer, parent string) (*staged, []mount.Mount, error) {
	st := &staged{s: s, layer: l, key: "unpack-" + uuid.NewString(), since: s.flush.mark()}
	mounts, err := s.layers.Prepare(ctx, st.key, parent)
	if err != nil {
		return nil, nil, fmt.Errorf("make a directory for layer %s: %w", l.blob.Digest, err)
	}
	return st, mounts, nil
}

// unpacker unpacks a plain archive into root.
type unpacker func(root string, r io.Reader) error

// Between the stages of unpacking (decompress and digest, write files) this
// many parts of this many bytes wait.
const (
	aheadParts = 4
	aheadSize  = 512 << 10
)

// apply unpacks r, a layer as stored, into root and verifies its diff id.
func (s *depot) apply(ctx context.Context, l layer, root string, r io.Reader, unpack unpacker) error {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	sum := l.diffID.Algorithm().Digester()
	t, err := readahead.NewReaderSize(io.TeeReader(plain, sum.Hash()), aheadParts, aheadSize)
	if err != nil {
		return err
	}
	defer t.Close() // before plain, which it reads
	if err := unpack(root, t); err != nil {
		return s.unpackError(root, err)
	}
	if _, err := io.Copy(io.Discard, t); err != nil { // what follows the archive's end
		return s.unpackError(root, err)
	}
	t.Close()
	if got := sum.Digest(); got != l.diffID {
		return errdefs.ErrDataLoss.WithMessage(fmt.Sprintf(
			"wrong diff id: the image's config says %s, its content is %s; the image is broken where it was built", l.diffID, got))
	}
	return nil
}

// save puts on disk what was unpacked.
func (st *staged) save(ctx context.Context) error {
	if err := st.s.flush.sync(st.since); err != nil {
		st.abort(ctx)
		return err
	}
	return nil
}

// commit gives the snapshot its place: it is saved, and the layer below is
// committed.
func (st *staged) commit(ctx context.Context) error {
	var opts []snapshots.Opt
	if st.rebase {
		opts = append(opts, snapshots.WithParent(st.layer.parent.String()))
	}
	err := st.s.layers.Commit(ctx, st.layer.chain.String(), st.key, opts...)
	if err == nil {
		return nil
	}
	st.abort(ctx)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return fmt.Errorf("store the unpacked layer: %w", err)
}

// abort removes what was unpacked; st may be nil.
func (st *staged) abort(ctx context.Context) {
	if st == nil {
		return
	}
	if err := st.s.layers.Remove(context.WithoutCancel(ctx), st.key); err != nil && !errdefs.IsNotFound(err) {
		st.s.log.Warn("remove a layer that was not finished", "layer", st.layer.blob.Digest, "error", err)
	}
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // aufs's own files
	whiteoutOpaque = ".wh..wh..opq"
	xattrRecord    = "SCHILY.xattr."
)

// clean drops what no image may set: attributes that overlay itself reads,
// and the files that aufs left in old images.
func clean(h *tar.Header) (bool, error) {
	if err := inside(h.Name); err != nil {
		return false, err
	}
	maps.DeleteFunc(h.PAXRecords, func(k, _ string) bool {
		name, ok := strings.CutPrefix(k, xattrRecord)
		return ok && (strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay."))
	})
	for part := range strings.SplitSeq(h.Name, "/") {
		if strings.HasPrefix(part, whiteoutMeta) && part != whiteoutOpaque {
			return false, nil
		}
	}
	return true, nil
}

// hider obeys whiteouts over the mounted layers below. They speak of those
// only, wherever in the layer they stand (image-spec, layer.md, whiteouts).
type hider struct{ made map[string]struct{} } // paths that the layer itself has

func (h *hider) whiteout(_ *tar.Header, p string) (bool, error) {
	dir, base := filepath.Split(p)
	switch {
	case base == whiteoutOpaque:
		list, err := os.ReadDir(dir)
		if err != nil {
			return false, err
		}
		for _, e := range list {
			if err := h.hide(filepath.Join(dir, e.Name())); err != nil {
				return false, err
			}
		}
		return false, nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return false, h.hide(filepath.Join(dir, base[len(whiteoutPrefix):]))
	}
	for _, known := h.made[p]; !known; _, known = h.made[p] { // with its folders, up to /
		h.made[p] = struct{}{}
		p = filepath.Dir(p)
	}
	return true, nil
}

// hide removes p, or all in p that is not the layer's own. It follows no
// symbolic link.
func (h *hider) hide(p string) error {
	if _, own := h.made[p]; !own {
		return os.RemoveAll(p)
	}
	info, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := os.ReadDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := h.hide(filepath.Join(p, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// maxXZ is the most memory that xz may want: what its strongest preset does.
const maxXZ = 64 << 20

// decompress recognises gzip, zstd, xz and bzip2 by their first bytes; what is
// none of them is a plain archive. No program is called.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("decompress with gzip: %w", err)
		}
		return z, nil
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
