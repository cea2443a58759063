package image

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/image/archive"
)

// Archive is one that is about to be written. Until Close, its blobs stay.
type Archive struct {
	s       *Service
	plan    *archive.Plan
	ctx     context.Context
	release func()
	saved   []ocispec.Descriptor
}

// Save prepares an archive of images: by NAME:TAG, by id or digest (then the
// archive gives them no name), or every tag of a repository by NAME alone. With
// platforms, it holds only those of each image; else all that are here. All
// that it needs is found before it answers.
func (s *Service) Save(ctx context.Context, refs []string, wanted []ocispec.Platform) (_ *Archive, err error) {
	if len(refs) == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("no image is named that could be saved")
	}
	lctx, release, err := s.lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	list, err := s.chooseSaved(lctx, refs, wanted)
	if err != nil {
		return nil, err
	}
	var blobs []ocispec.Descriptor
	a := &Archive{s: s, ctx: lctx, release: release}
	for _, i := range list {
		blobs = append(blobs, i.Blobs...)
		a.saved = append(a.saved, i.Target)
	}
	if err := s.hold(lctx, blobs); err != nil {
		return nil, err
	}
	if a.plan, err = archive.NewPlan(list); err != nil {
		return nil, fmt.Errorf("lay out the archive: %w", err)
	}
	return a, nil
}

// Size in bytes.
func (a *Archive) Size() int64 { return a.plan.Size() }

// Close lets the blobs go.
func (a *Archive) Close() { a.release() }

// Write writes the archive once.
func (a *Archive) Write(w io.Writer) error {
	err := a.plan.Write(a.ctx, w, func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		ra, err := a.s.blobs.ReaderAt(ctx, d)
		if err != nil {
			return nil, err
		}
		if ra.Size() != d.Size {
			ra.Close()
			return nil, errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("it has %d bytes on disk, not %d: pull or load the image again", ra.Size(), d.Size))
		}
		return struct {
			io.Reader
			io.Closer
		}{content.NewReader(ra), ra}, nil
	})
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	for _, d := range a.saved {
		a.s.publish("save", d.Digest.String(), d.Digest.String(), nil)
	}
	return nil
}

// hold has ctx's lease protect blobs that are here, all in one write.
func (s *depot) hold(ctx context.Context, list []ocispec.Descriptor) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, d := range list {
			if _, err := s.blobs.Info(ctx, d.Digest); errdefs.IsNotFound(err) {
				continue
			} else if err != nil {
				return err
			}
			if err := s.leases.AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: d.Digest.String(), Type: "content"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("protect the images' content from collection: %w", err)
	}
	return nil
}

// chooseSaved finds what refs mean; an image that several of them name is one.
func (s *Service) chooseSaved(ctx context.Context, refs []string, wanted []ocispec.Platform) ([]archive.Saved, error) {
	for _, ref := range refs {
		if isHello(ref) { // it is made when it is asked for
			if _, err := s.Resolve(ctx, ref, nil); err != nil {
				return nil, err
			}
		}
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	var list []archive.Saved
	add := func(target ocispec.Descriptor, ref, name string) error {
		i, err := s.saved(ctx, c, target, ref, wanted)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(list, func(have archive.Saved) bool { return have.Target.Digest == i.Target.Digest })
		if at < 0 {
			at, list = len(list), append(list, i)
		}
		if name != "" && !slices.Contains(list[at].Names, name) {
			list[at].Names = append(list[at].Names, name)
		}
		return nil
	}
	for _, ref := range refs {
		target, name, err := s.find(ctx, c, ref)
		named, parseErr := reference.ParseNormalizedNamed(ref)
		if parseErr == nil && reference.IsNameOnly(named) && (err != nil || name != "") {
			tags := tagsOf(c, named)
			if len(tags) == 0 {
				return nil, noSuchImage(reference.FamiliarString(reference.TagNameOnly(named)))
			}
			for _, tag := range tags {
				if err := add(c.byName[tag].Target, ref, tag); err != nil {
					return nil, err
				}
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if parseErr == nil {
			if _, digested := named.(reference.Digested); digested {
				name = ""
			}
		}
		if err := add(target, ref, name); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// tagsOf are the names of a repository's tags.
func tagsOf(c *catalog, repository reference.Named) []string {
	var out []string
	for name := range c.byName {
		if !strings.HasPrefix(name, repository.Name()+":") {
			continue
		}
		if n, err := reference.ParseNormalizedNamed(name); err == nil && n.Name() == repository.Name() {
			if _, tagged := n.(reference.NamedTagged); tagged {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// saved is what an archive has of one image.
func (s *depot) saved(ctx context.Context, c *catalog, target ocispec.Descriptor, ref string, wanted []ocispec.Platform) (archive.Saved, error) {
	var none archive.Saved
	in, err := s.read(ctx, c, target)
	if err != nil {
		return none, err
	}
	if len(wanted) == 1 {
		v, err := in.exactly(ref, wanted[0])
		if err != nil {
			return none, err
		}
		target, in = v.desc, &contents{variants: []*variant{v}}
	}
	out := archive.Saved{Target: s.withSources(ctx, target), Blobs: []ocispec.Descriptor{target}}
	var main *variant
	var missing error
	for _, v := range in.variants {
		if !v.here || len(wanted) > 0 && !platforms.Any(wanted...).Match(v.platform) {
			continue
		}
		if in.index {
			out.Blobs = append(out.Blobs, v.desc)
		}
		if err := s.complete(ctx, ref, v); err != nil {
			missing = err
			continue
		}
		out.Blobs = append(out.Blobs, v.manifest.Config)
		for _, l := range v.manifest.Layers {
			if ok, err := s.hasBlob(s.context(ctx), l.Digest); err != nil {
				return none, err
			} else if ok {
				out.Blobs = append(out.Blobs, l)
			}
		}
		if main == nil || platforms.Default().Less(v.platform, main.platform) {
			main = v
		}
	}
	switch {
	case main != nil:
	case missing != nil:
		return none, missing
	default:
		return none, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but does not provide %s: pull it again", ref, describe(wanted)))
	}
	out.Manifest = main.manifest
	if in.index && len(wanted) == 0 {
		if err := s.addOthers(ctx, target, &out); err != nil {
			return none, err
		}
	}
	return out, nil
}

func describe(wanted []ocispec.Platform) string {
	if len(wanted) == 0 {
		return "any platform"
	}
	list := make([]string, len(wanted))
	for i, p := range wanted {
		list[i] = platforms.FormatAll(p)
	}
	return "the specified platforms (" + strings.Join(list, ", ") + ")"
}

// exactly is the variant of a platform, without those that would run, too.
func (in *contents) exactly(ref string, p ocispec.Platform) (*variant, error) {
	var found *variant
	for _, v := range in.variants {
		if !v.here || !platforms.OnlyStrict(p).Match(v.platform) {
			continue
		}
		if found != nil && found.desc.Digest != v.desc.Digest {
			return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("multiple manifests found for platform %s in %s", platforms.FormatAll(p), ref))
		}
		found = v
	}
	if found == nil {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s)", ref, platforms.FormatAll(p)))
	}
	return found, nil
}

// complete says which layer of a variant is not here. The files of the image
// may well be. Foreign layers can be fetched by everybody.
func (s *depot) complete(ctx context.Context, ref string, v *variant) error {
	for _, l := range v.manifest.Layers {
		ok, err := s.hasBlob(s.context(ctx), l.Digest)
		if err != nil {
			return err
		}
		if !ok && !images.IsNonDistributable(l.MediaType) {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("layer %s of %s (%s) is not here as it was pulled, only its unpacked files are: pull the image again", l.Digest, ref, platforms.Format(v.platform)))
		}
	}
	return nil
}

// addOthers adds what an index has beside images: attestations that are here.
func (s *depot) addOthers(ctx context.Context, target ocispec.Descriptor, out *archive.Saved) error {
	var index ocispec.Index
	if err := s.readJSON(s.context(ctx), target, &index); err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if slices.ContainsFunc(out.Blobs, func(have ocispec.Descriptor) bool { return have.Digest == d.Digest }) {
			continue
		}
		list, err := s.family(s.context(ctx), d, 0)
		if err != nil {
			return err
		}
		out.Blobs = append(out.Blobs, list...)
	}
	return nil
}

// family is a manifest with all that it names, or nothing if a part is not here.
func (s *depot) family(ctx context.Context, d ocispec.Descriptor, depth int) ([]ocispec.Descriptor, error) {
	if depth > maxDepth {
		return nil, nil
	}
	ok, err := s.hasBlob(ctx, d.Digest)
	if !ok || err != nil {
		return nil, err
	}
	out := []ocispec.Descriptor{d}
	if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
		return out, nil
	}
	if _, err := s.readSmall(ctx, d); err != nil {
		return nil, err
	}
	children, err := images.Children(ctx, s.blobs, d)
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		list, err := s.family(ctx, c, depth+1)
		if err != nil {
			return nil, err
		}
		if list == nil && images.IsManifestType(d.MediaType) {
			return nil, nil
		}
		out = append(out, list...)
	}
	return out, nil
}

// withSources notes on a descriptor where its content was pulled from or pushed
// to, as Docker does: who loads the archive can mount its layers from there.
func (s *depot) withSources(ctx context.Context, d ocispec.Descriptor) ocispec.Descriptor {
	info, err := s.blobs.Info(s.context(ctx), d.Digest)
	if err != nil {
		return d // it is missed when it is read
	}
	d.Annotations = maps.Clone(d.Annotations)
	for k, v := range info.Labels {
		if strings.HasPrefix(k, labels.LabelDistributionSource) {
			if d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			d.Annotations[k] = v
		}
	}
	return d
}
