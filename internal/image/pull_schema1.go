package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hezi/internal/image/schema1"
	"hezi/internal/image/unpack"
)

// errSchema1 is why a manifest cannot be used as it is.
var errSchema1 = errdefs.ErrInvalidArgument.WithMessage("an image of schema 1 cannot be part of an index: push it again by a present-day client")

// convert brings an image of schema 1 and makes one of schema 2 of it: its
// layers as they are, a config of what its history says. The digest is another
// one; the same image always gives the same.
func (f *fetch) convert(ctx context.Context, ref reference.Named, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	body, _, err := f.repo.Manifest(ctx, target)
	if err != nil {
		return target, err
	}
	old, err := schema1.Parse(body)
	if err != nil {
		return target, fmt.Errorf("%s: %w", reference.FamiliarString(ref), err)
	}
	f.display.say("", fmt.Sprintf("[DEPRECATION NOTICE] %s is of Docker Image manifest version 2, schema 1: it is converted, and so has another digest here. Suggest the author to push it again by a present-day client",
		reference.FamiliarString(ref)))
	blobs, diffIDs, err := f.oldLayers(ctx, old.Layers())
	if err != nil {
		return target, err
	}
	config, kept, err := old.Config(func(d digest.Digest) digest.Digest { return diffIDs[d] })
	if err != nil {
		return target, fmt.Errorf("%s: make its config: %w", reference.FamiliarString(ref), err)
	}
	if len(config) > maxConfig {
		return target, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the config of %s has %d bytes; at most %d are taken", reference.FamiliarString(ref), len(config), maxConfig))
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2Manifest, Layers: []ocispec.Descriptor{}}
	m.Config = ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2Config, Digest: digest.FromBytes(config), Size: int64(len(config))}
	for _, d := range kept {
		m.Layers = append(m.Layers, blobs[d])
	}
	f.fresh.Store(false) // from here on, what is missing is seen as with other images
	if err := f.keep(ctx, m.Config, config, nil); err != nil {
		return target, err
	}
	body, err = json.Marshal(m)
	if err != nil {
		return target, err
	}
	out := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	return out, f.keep(ctx, out, body, nil)
}

// oldLayers brings layers of which nothing but the digest is known, and finds
// out what they are uncompressed.
func (f *fetch) oldLayers(ctx context.Context, list []digest.Digest) (blobs map[digest.Digest]ocispec.Descriptor, diffIDs map[digest.Digest]digest.Digest, err error) {
	slices.Sort(list)
	list = slices.Compact(list)
	blobs, diffIDs = make(map[digest.Digest]ocispec.Descriptor), make(map[digest.Digest]digest.Digest)
	var mu sync.Mutex // guards both
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(max(4, runtime.NumCPU()))
	for _, d := range list {
		group.Go(func() error {
			blob, diffID, err := f.oldLayer(gctx, d, f.display.layer(shortID(d)))
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			blobs[d], diffIDs[d] = blob, diffID
			return nil
		})
	}
	return blobs, diffIDs, group.Wait()
}

func (f *fetch) oldLayer(ctx context.Context, d digest.Digest, w watch) (blob ocispec.Descriptor, diffID digest.Digest, err error) {
	blob = ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2LayerGzip, Digest: d}
	if id, ok := leases.FromContext(ctx); ok {
		if err := f.s.leases.AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			return blob, "", fmt.Errorf("protect layer %s from collection: %w", d, err)
		}
	}
	if info, err := f.s.blobs.Info(ctx, d); err == nil {
		blob.Size = info.Size
	} else {
		w(step{status: statusPulling})
		if blob.Size, err = f.repo.BlobSize(ctx, d); err != nil {
			return blob, "", err
		}
		if err := f.bringBlob(ctx, blob, nil, w); err != nil {
			return blob, "", err
		}
	}
	plain, diffID, err := f.s.diffID(ctx, blob)
	if errors.Is(err, context.Canceled) {
		return blob, "", context.Cause(ctx)
	}
	if err != nil {
		return blob, "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer %s cannot be read: %v: the image is broken where it was built; build it again", d, err))
	}
	if plain {
		blob.MediaType = images.MediaTypeDockerSchema2Layer
	}
	return blob, diffID, nil
}

// diffID is the digest of a stored layer, uncompressed; plain says that it is
// stored so.
func (s *depot) diffID(ctx context.Context, blob ocispec.Descriptor) (plain bool, _ digest.Digest, err error) {
	ra, err := s.blobs.ReaderAt(ctx, blob)
	if err != nil {
		return false, "", err
	}
	defer ra.Close()
	r, err := unpack.Decompress(content.NewReader(ra))
	if err != nil {
		return false, "", err
	}
	defer r.Close()
	sum := digest.SHA256.Digester()
	n, err := io.Copy(sum.Hash(), &untilDone{ctx, r})
	got := sum.Digest()
	return n == blob.Size && got == blob.Digest, got, err
}

// untilDone ends reading with a context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, u.ctx.Err()
	}
	return u.r.Read(p)
}
