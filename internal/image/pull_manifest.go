package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxConfig = 16 << 20 // bytes; configs hold history and labels
	maxDepth  = 3        // of indexes within indexes
)

// fetch brings the content of one reference.
type fetch struct {
	*pull
	// plain is without our lease: what is half downloaded is not to end with
	// it, but after a day.
	plain   context.Context
	watches []watch
	fresh   atomic.Bool // something was missing
}

// manifest brings target and, if it is an index, the manifest of the wanted
// platform. It completes target's media type.
func (f *fetch) manifest(ctx context.Context, ref reference.Named, target *ocispec.Descriptor, depth int) (ocispec.Descriptor, ocispec.Manifest, error) {
	body, err := f.manifestBody(ctx, target)
	if errors.Is(err, errSchema1) && depth > 0 {
		err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s of %s: %v", target.Digest, reference.FamiliarString(ref), err))
	}
	if err != nil {
		return ocispec.Descriptor{}, ocispec.Manifest{}, err
	}
	if !images.IsIndexType(target.MediaType) {
		var m ocispec.Manifest
		if err := json.Unmarshal(body, &m); err != nil {
			return ocispec.Descriptor{}, ocispec.Manifest{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s of %s %s", target.Digest, reference.FamiliarString(ref), notJSON(body, err)))
		}
		if err := checkDescriptors(append([]ocispec.Descriptor{m.Config}, m.Layers...)); err != nil {
			return ocispec.Descriptor{}, ocispec.Manifest{}, fmt.Errorf("manifest %s: %w", target.Digest, err)
		}
		return *target, m, f.keep(ctx, *target, body, labelsOf(m))
	}
	var index ocispec.Index
	if err := json.Unmarshal(body, &index); err != nil {
		return ocispec.Descriptor{}, ocispec.Manifest{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("index %s of %s %s", target.Digest, reference.FamiliarString(ref), notJSON(body, err)))
	}
	i, err := f.choose(ref, index)
	if err != nil {
		return ocispec.Descriptor{}, ocispec.Manifest{}, err
	}
	chosen := index.Manifests[i]
	if depth == maxDepth {
		return ocispec.Descriptor{}, ocispec.Manifest{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s: more than %d indexes one within the other", reference.FamiliarString(ref), maxDepth))
	}
	if err := checkDescriptors(index.Manifests[i : i+1]); err != nil {
		return ocispec.Descriptor{}, ocispec.Manifest{}, fmt.Errorf("index %s: %w", target.Digest, err)
	}
	labels := map[string]string{fmt.Sprintf("containerd.io/gc.ref.content.m.%d", i): chosen.Digest.String()}
	for _, i := range attestationsOf(index, chosen.Digest) {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.m.%d", i)] = index.Manifests[i].Digest.String()
	}
	if err := f.keep(ctx, *target, body, labels); err != nil {
		return ocispec.Descriptor{}, ocispec.Manifest{}, err
	}
	of := chosen.Digest
	d, m, err := f.manifest(ctx, ref, &chosen, depth+1)
	if err == nil {
		err = f.attestations(ctx, ref, index, of)
	}
	return d, m, err
}

func checkDescriptors(list []ocispec.Descriptor) error {
	for _, d := range list {
		if err := d.Digest.Validate(); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("digest %q: %v", d.Digest, err))
		}
		if d.Digest.Algorithm() != digest.SHA256 {
			return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("digest %q: blobs are stored by sha256 only", d.Digest))
		}
		if d.Size < 0 {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s has size %d", d.Digest, d.Size))
		}
	}
	return nil
}

// manifestBody reads a manifest from the store or the registry.
func (f *fetch) manifestBody(ctx context.Context, d *ocispec.Descriptor) ([]byte, error) {
	body, err := content.ReadBlob(ctx, f.s.blobs, *d)
	if errdefs.IsNotFound(err) {
		var kind string
		if body, kind, err = f.repo.Manifest(ctx, *d); err == nil && d.MediaType == "" {
			d.MediaType = kind
		}
		f.fresh.Store(true)
	}
	if err != nil {
		return nil, err
	}
	d.Size = int64(len(body))
	return body, settleType(d, body)
}

// settleType finds out what a manifest is: the registry's word for it may be
// missing or no manifest's at all, and what it says of itself counts more.
func settleType(d *ocispec.Descriptor, body []byte) error {
	var self struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(body, &self); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s %s", d.Digest, notJSON(body, err)))
	}
	if self.SchemaVersion == 1 || self.FSLayers != nil {
		return errSchema1
	}
	if self.Manifests != nil && self.Layers != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s lists both layers and manifests", d.Digest))
	}
	if self.MediaType != "" {
		d.MediaType = self.MediaType
	}
	switch {
	case self.Manifests == nil && self.Layers == nil && !images.IsIndexType(d.MediaType):
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manifest %s lists neither layers nor manifests: it is no image; push it again", d.Digest))
	case self.Manifests != nil && !images.IsIndexType(d.MediaType):
		d.MediaType = ocispec.MediaTypeImageIndex
	case self.Manifests == nil && !images.IsManifestType(d.MediaType):
		if self.Layers == nil || images.IsIndexType(d.MediaType) {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not an image: its media type is %q", d.Digest, d.MediaType))
		}
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	return nil
}

// choose picks the manifest of the wanted platform, leaving out attestations.
func (f *fetch) choose(ref reference.Named, index ocispec.Index) (int, error) {
	spec := platforms.DefaultSpec()
	want := platforms.Default()
	if f.platform != nil {
		spec, want = *f.platform, platforms.Only(*f.platform)
	}
	best, bare := -1, -1
	var exist []string
	for i, m := range index.Manifests {
		if m.Annotations["vnd.docker.reference.type"] != "" || m.Platform != nil && m.Platform.OS == "unknown" {
			continue
		}
		if m.Platform == nil {
			if bare < 0 && (images.IsManifestType(m.MediaType) || images.IsIndexType(m.MediaType)) {
				bare = i
			}
			continue
		}
		exist = append(exist, platforms.Format(*m.Platform))
		if want.Match(*m.Platform) && (best < 0 || want.Less(*m.Platform, *index.Manifests[best].Platform)) {
			best = i
		}
	}
	if best < 0 {
		best = bare
	}
	if best >= 0 {
		return best, nil
	}
	text := "no matching manifest for " + platforms.Format(spec) + " in the manifest list entries"
	if len(exist) > 0 {
		slices.Sort(exist)
		text += ": " + reference.FamiliarString(ref) + " exists for " + strings.Join(slices.Compact(exist), ", ")
	}
	return 0, errdefs.ErrNotFound.WithMessage(text)
}

func knownConfig(mediaType string) bool {
	return images.IsConfigType(mediaType) || mediaType == "" || mediaType == "application/octet-stream"
}

// config brings an image's config and returns its diff ids. A platform that
// the user asked for must be the image's.
func (f *fetch) config(ctx context.Context, ref reference.Named, d ocispec.Descriptor) ([]digest.Digest, error) {
	if d.Size > maxConfig {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("config %s of %s has %d bytes; at most %d are taken", d.Digest, reference.FamiliarString(ref), d.Size, maxConfig))
	}
	ready := func(ctx context.Context) (bool, error) { return f.s.hasBlob(ctx, d.Digest) }
	err := f.s.flights.do(ctx, "blob "+d.Digest.String(), func(step) {}, ready, func(ctx context.Context, w watch) error {
		f.fresh.Store(true)
		_, err := f.download(ctx, d, nil, w)
		return err
	})
	if err != nil {
		return nil, err
	}
	body, err := content.ReadBlob(ctx, f.s.blobs, d)
	if err != nil {
		return nil, fmt.Errorf("read config %s: %w", d.Digest, err)
	}
	if err := f.keep(ctx, d, body, nil); err != nil {
		return nil, err
	}
	var c ocispec.Image
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("config %s of %s %s", d.Digest, reference.FamiliarString(ref), notJSON(body, err)))
	}
	if f.platform != nil && c.OS != "" && c.Architecture != "" && !platforms.Only(*f.platform).Match(c.Platform) {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but does not match the specified platform: wanted %s, actual: %s",
			reference.FamiliarString(ref), platforms.Format(*f.platform), platforms.Format(c.Platform)))
	}
	if c.OS != "" && c.OS != "linux" {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("image operating system %q cannot be used on this platform: %s is not made for linux", c.OS, reference.FamiliarString(ref)))
	}
	return c.RootFS.DiffIDs, nil
}

// keep stores a small blob under our lease; labels say what it refers to.
func (f *fetch) keep(ctx context.Context, d ocispec.Descriptor, body []byte, labels map[string]string) error {
	err := content.WriteBlob(ctx, f.s.blobs, "keep-"+uuid.NewString(), bytes.NewReader(body), d, content.WithLabels(labels))
	if err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	info, err := f.s.blobs.Info(ctx, d.Digest)
	if err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	var paths []string
	for k, v := range labels {
		if info.Labels[k] != v {
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	if _, err := f.s.blobs.Update(ctx, content.Info{Digest: d.Digest, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("note what %s refers to: %w", d.Digest, err)
	}
	return nil
}

func (s *depot) hasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := s.blobs.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
