package image

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hezi/internal/image/unpack"
)

// maxLayers is more than overlay can stack; it bounds what a manifest can ask.
const maxLayers = 500

// layer is one step of an image's chain.
type layer struct {
	blob   ocispec.Descriptor
	diffID digest.Digest // of the blob uncompressed
	chain  digest.Digest // of this layer and all below: its snapshot's name
	parent digest.Digest // the chain below; "" at the bottom
}

// layersOf pairs a manifest's layers with its config's diff ids.
func layersOf(m ocispec.Manifest, diffIDs []digest.Digest) ([]layer, error) {
	if len(m.Layers) != len(diffIDs) {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"the image is broken: its manifest has %d layers, its config %s has %d", len(m.Layers), m.Config.Digest, len(diffIDs)))
	}
	if len(m.Layers) > maxLayers {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the image has %d layers; at most %d can be stacked", len(m.Layers), maxLayers))
	}
	chains := identity.ChainIDs(append([]digest.Digest(nil), diffIDs...))
	list := make([]layer, len(m.Layers))
	for i := range m.Layers {
		if !images.IsLayerType(m.Layers[i].MediaType) {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
				"this is not a container image: layer %s has media type %q", m.Layers[i].Digest, m.Layers[i].MediaType))
		}
		if err := diffIDs[i].Validate(); err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the image is broken: diff id %q of its config: %v", diffIDs[i], err))
		}
		list[i] = layer{blob: m.Layers[i], diffID: diffIDs[i], chain: chains[i]}
		if i > 0 {
			list[i].parent = chains[i-1]
		}
	}
	return list, nil
}

// unseen is shown where nobody looks.
func unseen(layer) watch { return func(step) {} }

// unpack makes the snapshots of an image whose content is here, and shows how
// far each layer is. p nil is the host's platform. The caller holds a lease in
// ctx or a name of the image.
func (s *depot) unpack(ctx context.Context, target ocispec.Descriptor, p *ocispec.Platform, show func(layer) watch) error {
	ctx = s.context(ctx)
	want := platforms.Default()
	if p != nil {
		want = platforms.Only(*p)
	}
	m, err := images.Manifest(ctx, s.blobs, target, want)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", target.Digest, err)
	}
	diffIDs, err := images.RootFS(ctx, s.blobs, m.Config)
	if err != nil {
		return fmt.Errorf("unpack %s: read its config: %w", target.Digest, err)
	}
	list, err := layersOf(m, diffIDs)
	if err != nil {
		return err
	}
	stored := func(ctx context.Context, l layer, _ tap, _ watch) error {
		_, err := s.blobs.Info(ctx, l.blob.Digest)
		return err
	}
	return s.build(ctx, m.Config, list, stored, func(i int) watch { return show(list[i]) })
}

// bring gets a layer's blob into the content store, verified. If the blob
// arrives from its first byte, t reads it meanwhile; t has ended when bring
// returns.
type bring func(ctx context.Context, l layer, t tap, w watch) error

// build makes the snapshots of a chain of layers, side by side; each is
// committed as soon as the one below is.
func (s *depot) build(ctx context.Context, config ocispec.Descriptor, list []layer, get bring, show func(i int) watch) error {
	defer s.trees.Busy()()
	g, gctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var below chan struct{}
	for i, l := range list {
		parent, mine := below, make(chan struct{})
		below = mine
		begun := make(chan struct{})
		mark := sync.OnceFunc(func() { close(begun) })
		w := show(i)
		g.Go(func() error {
			defer mark()
			b := builder{s: s, layer: l, slots: slots, parent: parent, get: get}
			if err := b.run(gctx, func(st step) { mark(); w(st) }); err != nil {
				return err
			}
			close(mine)
			return nil
		})
		select { // so that lower layers stand first in the queue for downloads
		case <-begun:
		case <-gctx.Done():
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	label := "containerd.io/gc.ref.snapshot." + s.form.name
	_, err := s.blobs.Update(ctx, content.Info{Digest: config.Digest, Labels: map[string]string{label: list[len(list)-1].chain.String()}}, "labels."+label)
	if err != nil {
		return fmt.Errorf("tie the layers to config %s: %w", config.Digest, err)
	}
	return nil
}

// builder makes one layer's snapshot.
type builder struct {
	s      *depot
	layer  layer
	slots  chan struct{} // held while a stored blob is unpacked
	parent chan struct{} // closed when the layer below is committed; nil at the bottom
	get    bring
}

// run returns when the snapshot is committed and the blob is in the store.
func (b *builder) run(ctx context.Context, w watch) error {
	ready := func(ctx context.Context) (bool, error) { return b.s.hasSnapshot(ctx, b.layer.chain) }
	made := false
	err := b.s.flights.do(ctx, "chain "+b.layer.chain.String(), w, ready, func(ctx context.Context, w watch) error {
		made = true
		return b.make(ctx, w)
	})
	if err != nil || made {
		return err
	}
	// Another made the snapshot, now or long ago; the blob may be gone.
	if err := b.get(ctx, b.layer, nil, w); err != nil {
		return err
	}
	w(step{})
	return nil
}

// make brings the blob, unpacks it and commits the snapshot.
func (b *builder) make(ctx context.Context, w watch) error {
	var st *staged
	var tapErr error
	err := b.get(ctx, b.layer, func(ctx context.Context, r tapReader) error {
		st, tapErr = b.stage(ctx, r)
		return tapErr
	}, w)
	if err != nil {
		st.abort(ctx)
		return err
	}
	w(step{status: statusExtracting, current: 0, total: b.layer.blob.Size})
	if st == nil {
		if st, err = b.fromStore(ctx, tapErr, w); err != nil {
			return layerError(b.layer, err)
		}
	}
	if err := st.save(ctx); err != nil {
		return layerError(b.layer, err)
	}
	if err := b.wait(ctx); err != nil {
		st.abort(ctx)
		return err
	}
	w(step{status: statusExtracting, current: b.layer.blob.Size, total: b.layer.blob.Size})
	if err := st.commit(ctx); err != nil {
		return layerError(b.layer, err)
	}
	w(step{status: statusComplete})
	return nil
}

// fromStore unpacks the stored blob, on its own if it can be, otherwise over
// the layers below. before is what unpacking it on arrival said, if that was
// tried.
func (b *builder) fromStore(ctx context.Context, before error, w watch) (*staged, error) {
	alone := b.layer.parent == "" || !unpack.NeedsParents(before)
	if !alone {
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
	select {
	case b.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	release := func() { <-b.slots }
	if alone {
		how := b.stage
		if unpack.NeedsParents(before) {
			how = b.stageBottom
		}
		st, err := b.stageStored(ctx, w, how)
		if err == nil || !unpack.NeedsParents(err) || b.layer.parent == "" && unpack.NeedsParents(before) {
			release()
			return st, err
		}
		release() // the layers below may need it
		return b.fromStore(ctx, err, w)
	}
	defer release()
	return b.stageStored(ctx, w, b.stageOver)
}

// wait waits for the layer below.
func (b *builder) wait(ctx context.Context) error {
	if b.parent == nil {
		return nil
	}
	select {
	case <-b.parent:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *depot) hasSnapshot(ctx context.Context, chain digest.Digest) (bool, error) {
	_, err := s.layers.Stat(ctx, chain.String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
