package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/disk"
)

// Annotations of attestations, as BuildKit writes them
// (docs/attestations/attestation-storage.md).
const (
	refersAs        = "vnd.docker.reference.type"
	refersTo        = "vnd.docker.reference.digest"
	isAttestation   = "attestation-manifest"
	predicateType   = "in-toto.io/predicate-type"
	maxAttestations = 32 // of one image
)

// attestation is a manifest whose layers are statements about another, in the
// same index.
type attestation struct {
	desc     ocispec.Descriptor
	of       digest.Digest
	manifest ocispec.Manifest
	here     bool
}

// attests says whether an index's entry is an attestation, and of which manifest.
func attests(d ocispec.Descriptor) (of digest.Digest, ok bool) {
	return digest.Digest(d.Annotations[refersTo]), images.IsManifestType(d.MediaType) && d.Annotations[refersAs] == isAttestation
}

// attestationsOf are the entries of an index that speak of one of its manifests.
func attestationsOf(index ocispec.Index, of digest.Digest) []int {
	var out []int
	for i, d := range index.Manifests {
		if to, ok := attests(d); ok && to == of && len(out) < maxAttestations {
			out = append(out, i)
		}
	}
	return out
}

// readAttestation reads one. What cannot be read is as good as absent: the
// image is whole without it.
func (s *depot) readAttestation(ctx context.Context, d ocispec.Descriptor, of digest.Digest) *attestation {
	a := &attestation{desc: d, of: of}
	a.here = s.readJSON(ctx, d, &a.manifest) == nil && checkDescriptors(append([]ocispec.Descriptor{a.manifest.Config}, a.manifest.Layers...)) == nil
	return a
}

// attestations brings what an index says of the manifest that was chosen. The
// image runs without them: what fails is told and left.
func (f *fetch) attestations(ctx context.Context, ref reference.Named, index ocispec.Index, of digest.Digest) error {
	for _, i := range attestationsOf(index, of) {
		err := f.attestation(ctx, index.Manifests[i])
		if ctx.Err() != nil || disk.IsFull(err) {
			return err
		}
		if err != nil {
			f.s.log.Warn("attestation of an image not pulled", "image", reference.FamiliarString(ref), "attestation", index.Manifests[i].Digest, "error", err)
			f.display.say("", fmt.Sprintf("The attestation %s of the image could not be pulled: %v", index.Manifests[i].Digest, err))
		}
	}
	return nil
}

func (f *fetch) attestation(ctx context.Context, d ocispec.Descriptor) error {
	if err := checkDescriptors([]ocispec.Descriptor{d}); err != nil {
		return err
	}
	body, err := f.manifestBody(ctx, &d)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(notJSON(body, err))
	}
	list := append([]ocispec.Descriptor{m.Config}, m.Layers...)
	if err := checkDescriptors(list); err != nil {
		return err
	}
	if err := f.keep(ctx, d, body, labelsOf(m)); err != nil {
		return err
	}
	for _, blob := range list {
		err := f.bring(ctx, layer{blob: blob}, nil, func(step) {})
		if err != nil {
			return err
		}
	}
	return nil
}

// labelsOf make a manifest hold its config and layers, for the collector.
func labelsOf(m ocispec.Manifest) map[string]string {
	labels := map[string]string{"containerd.io/gc.ref.content.config": m.Config.Digest.String()}
	for i, l := range m.Layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	return labels
}

// AttestationOptions of GET /images/{name}/attestations.
type AttestationOptions struct {
	Platform  *ocispec.Platform // nil: the host's
	Types     []string          // predicate types (in-toto); none is all
	Statement bool              // with the statements themselves
}

// Attestations lists what was signed or stated about an image when it was
// built: provenance, a bill of materials. There is none, or it is here since
// the image was pulled or loaded.
func (s *index) Attestations(ctx context.Context, ref string, o AttestationOptions) ([]imagetypes.AttestationStatement, error) {
	out := []imagetypes.AttestationStatement{}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	target, _, err := s.find(ctx, c, ref)
	if err != nil {
		return nil, err
	}
	in, err := s.read(ctx, c, target)
	if err != nil || !in.index {
		return out, err
	}
	want := platforms.Default()
	if o.Platform != nil {
		want = platforms.Only(*o.Platform)
	}
	var image *variant
	for _, v := range in.variants {
		if want.Match(v.platform) && (image == nil || want.Less(v.platform, image.platform)) {
			image = v
		}
	}
	if image == nil {
		p := platforms.DefaultSpec()
		if o.Platform != nil {
			p = *o.Platform
		}
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image %s has no manifest for platform %s", ref, platforms.FormatAll(p)))
	}
	ctx = s.context(ctx)
	for _, a := range in.attestations {
		if a.of != image.desc.Digest || !a.here {
			continue
		}
		for _, l := range a.manifest.Layers {
			kind := l.Annotations[predicateType]
			if kind == "" || len(o.Types) > 0 && !slices.Contains(o.Types, kind) {
				continue
			}
			st := imagetypes.AttestationStatement{Descriptor: l, PredicateType: kind}
			if o.Statement {
				if st.Statement, err = s.statement(ctx, l); err != nil {
					return nil, err
				}
			}
			out = append(out, st)
		}
	}
	return out, nil
}

func (s *index) statement(ctx context.Context, d ocispec.Descriptor) (*json.RawMessage, error) {
	b, err := content.ReadBlob(ctx, s.blobs, d)
	if errdefs.IsNotFound(err) {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("attestation statement %s is not available locally: pull the image again", d.Digest))
	}
	if err != nil {
		return nil, fmt.Errorf("read attestation statement %s: %w", d.Digest, err)
	}
	if !json.Valid(b) {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the attestation statement %s is no JSON", d.Digest))
	}
	raw := json.RawMessage(b)
	return &raw, nil
}

// summarizeAttestations lists them as `image ls --tree` and inspect do.
func (s *index) summarizeAttestations(ctx context.Context, in *contents) []imagetypes.ManifestSummary {
	var out []imagetypes.ManifestSummary
	for _, a := range in.attestations {
		m := imagetypes.ManifestSummary{ID: a.desc.Digest.String(), Descriptor: a.desc, Available: a.here, Kind: imagetypes.ManifestKindAttestation,
			AttestationData: &imagetypes.AttestationProperties{For: a.of}}
		if a.here {
			for _, d := range append([]ocispec.Descriptor{a.desc, a.manifest.Config}, a.manifest.Layers...) {
				if info, err := s.blobs.Info(s.context(ctx), d.Digest); err == nil {
					m.Size.Content += info.Size
				}
			}
			m.Size.Total = m.Size.Content
		}
		out = append(out, m)
	}
	return out
}
