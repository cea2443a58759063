package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/klauspost/readahead"
	"github.com/opencontainers/go-digest"

	"hezi/internal/image/check"
	"hezi/internal/image/unpack"
)

// tap reads a blob, as it is stored, while it arrives.
type tap func(ctx context.Context, r tapReader) error

type tapReader = io.Reader

// staged is a layer that is unpacked but has no place in a chain yet.
type staged struct {
	s     *depot
	layer layer
	key   string // of the active snapshot
	path  string // where its files are
	// rebase: the snapshot was made without the layers below and is put on
	// top of them when it is committed.
	rebase bool
	since  int             // of the flusher
	usage  snapshots.Usage // known once it is saved
}

// stage unpacks a layer into a directory of its own, without the layers
// below, in overlay's form of whiteouts.
func (b *builder) stage(ctx context.Context, r io.Reader) (*staged, error) {
	if b.over() {
		return nil, unpack.ErrNeedsParents
	}
	return b.stageFresh(ctx, r, func(root string, r io.Reader) error {
		return unpack.Alone(ctx, root, b.layer.parent == "", r)
	})
}

// stageBottom is stage for a lowest layer whose entries go through its own
// links, or come before their folders.
func (b *builder) stageBottom(ctx context.Context, r io.Reader) (*staged, error) {
	return b.stageFresh(ctx, r, func(root string, r io.Reader) error { return unpack.Apply(ctx, root, r) })
}

func (b *builder) stageFresh(ctx context.Context, r io.Reader, how unpacker) (_ *staged, err error) {
	st, mounts, err := b.prepare(ctx, "")
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
	st.path, st.rebase = mounts[0].Source, b.layer.parent != ""
	if err := b.apply(ctx, st.path, r, how); err != nil {
		return nil, err
	}
	return st, nil
}

// stageOver unpacks a layer over the mounted layers below.
func (b *builder) stageOver(ctx context.Context, r io.Reader) (_ *staged, err error) {
	if b.s.form.ready != nil {
		if _, err := b.s.directories(ctx, b.layer.parent); err != nil {
			return nil, err
		}
	}
	st, mounts, err := b.prepare(ctx, b.layer.parent.String())
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
	apply := func(root string, r io.Reader) error { return unpack.Apply(ctx, root, r) }
	if b.s.form.whole {
		st.path = mounts[0].Source
		return st, b.apply(ctx, st.path, r, apply)
	}
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			st.path = dir
		}
	}
	err = unpack.Mounted(mounts[0], func(root string) error {
		return b.apply(ctx, root, r, apply)
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// stageStored gives the stored blob to f.
func (b *builder) stageStored(ctx context.Context, w watch, f func(context.Context, io.Reader) (*staged, error)) (*staged, error) {
	ra, err := b.s.blobs.ReaderAt(ctx, b.layer.blob)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	r := &counter{r: content.NewReader(ra), w: w, step: step{status: statusExtracting, total: ra.Size()}}
	return f(ctx, r)
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
func (b *builder) prepare(ctx context.Context, parent string) (*staged, []mount.Mount, error) {
	st := &staged{s: b.s, layer: b.layer, key: "unpack-" + uuid.NewString(), since: b.s.flush.mark()}
	mounts, err := b.s.layers.Prepare(ctx, st.key, parent)
	if err != nil {
		return nil, nil, fmt.Errorf("make a directory for layer %s: %w", b.layer.blob.Digest, b.s.diskError(err))
	}
	return st, mounts, nil
}

// unpacker unpacks a plain archive into root.
type unpacker func(root string, r io.Reader) error

// Between the stages of unpacking (decompress, digest, write files) this many
// parts of this many bytes wait.
const (
	aheadParts = 4
	aheadSize  = 512 << 10
)

// apply unpacks r, a layer as stored, into root and verifies its diff id.
func (b *builder) apply(ctx context.Context, root string, r io.Reader, how unpacker) error {
	plain, err := unpack.DecompressKnown(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	sum := newBackgroundHash(b.layer.diffID.Algorithm().Hash())
	defer sum.end()
	ahead, err := readahead.NewReaderSize(plain, aheadParts, aheadSize)
	if err != nil {
		return err
	}
	defer ahead.Close() // before plain, which it reads
	t := io.TeeReader(ahead, sum)
	if err := how(root, t); err != nil {
		return b.s.unpackError(root, err)
	}
	// What follows the archive's end; t says EOF where an archive just ends.
	if _, err := io.Copy(io.Discard, t); err != nil && !errors.Is(err, io.EOF) {
		return b.s.unpackError(root, err)
	}
	if got := digest.NewDigest(b.layer.diffID.Algorithm(), sum.end()); got != b.layer.diffID {
		return errdefs.ErrDataLoss.WithMessage(fmt.Sprintf(
			"wrong diff id: the image's config says %s, its content is %s; the image is broken where it was built", b.layer.diffID, got))
	}
	return nil
}

// save puts on disk what was unpacked, and measures it meanwhile.
func (st *staged) save(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			st.abort(ctx)
		}
	}()
	if st.s.form.seal != nil {
		if st.usage, err = st.s.form.seal(ctx, st.path); err != nil {
			return fmt.Errorf("layer %s: %w", st.layer.blob.Digest, st.s.diskError(err))
		}
		return st.s.flush.sync(st.since)
	}
	type measurement struct {
		*meter
		err error
	}
	counted := make(chan measurement, 1)
	go func() {
		m, err := measure(ctx, st.path)
		counted <- measurement{m, err}
	}()
	err = st.s.flush.sync(st.since)
	m := <-counted
	if err != nil {
		return err
	}
	if m.err == nil {
		st.usage, m.err = m.finish()
	}
	if m.err != nil {
		return fmt.Errorf("measure layer %s: %w", st.layer.blob.Digest, m.err)
	}
	return st.unshare(ctx)
}

// unshare counts what the layer has beside what it shares with those below.
func (st *staged) unshare(ctx context.Context) error {
	if !st.s.form.shares || st.layer.parent == "" {
		return nil
	}
	below, err := sharedBelow(ctx, st.s, st.layer.parent.String())
	if err != nil {
		return fmt.Errorf("measure layer %s: %w", st.layer.blob.Digest, err)
	}
	st.usage = snapshots.Usage{Size: max(0, st.usage.Size-below.Size), Inodes: max(0, st.usage.Inodes-below.Inodes)}
	return nil
}

// commit gives the snapshot its place: it is saved, and the layer below is
// committed.
func (st *staged) commit(ctx context.Context) error {
	opts := []snapshots.Opt{check.Mark()}
	if st.rebase {
		opts = append(opts, snapshots.WithParent(st.layer.parent.String()))
	}
	err := st.s.layers.Commit(withUsage(ctx, st.usage), st.layer.chain.String(), st.key, opts...)
	if err == nil {
		st.s.trees.Later(st.layer.chain.String())
		return nil
	}
	st.abort(ctx)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return fmt.Errorf("store the unpacked layer: %w", st.s.diskError(err))
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
