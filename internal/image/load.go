package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/google/uuid"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/unpack"
)

// Load takes the images of an archive that `docker save` or an OCI tool wrote,
// plain or compressed. With platforms, only those of each image are unpacked,
// and one that is missing is an error. Nothing of an archive that is broken
// stays. Unless quiet, show is told how far it is.
func (s *Service) Load(ctx context.Context, r io.Reader, wanted []ocispec.Platform, quiet bool, show Progress) error {
	watching := show
	if quiet {
		watching = nil
	}
	d := newDisplay(watching)
	defer d.close()
	plain, err := unpack.Decompress(&counter{r: r, w: d.layer("archive"), step: step{status: statusReading}})
	if err != nil {
		return notAnArchive(err)
	}
	defer plain.Close()
	lctx, release, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer func() {
		release()
		s.collectLater() // archives have blobs that no image names
	}()
	index, err := archive.ImportIndex(lctx, apart{s.blobs, uuid.NewString()}, plain)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return notAnArchive(err)
	}
	var top ocispec.Index
	if err := s.readJSON(lctx, index, &top); err != nil {
		return err
	}
	if len(top.Manifests) == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("the archive has no images")
	}
	layers := func(l layer) watch {
		w := d.layer(shortID(l.blob.Digest))
		return func(st step) {
			if st.status == statusComplete {
				st.status = statusLoaded
			}
			w(st)
		}
	}
	for _, d := range top.Manifests {
		if err := s.label(lctx, d); err != nil {
			return err
		}
		if err := s.unpackLoaded(lctx, d, wanted, layers); err != nil {
			return err
		}
	}
	d.close() // what follows comes after it
	for _, d := range top.Manifests {
		if err := s.nameLoaded(lctx, d, show); err != nil {
			return err
		}
	}
	return nil
}

// apart gives what one archive is writing names of its own: archives have the
// same file names, and what one left half written must never begin another.
type apart struct {
	content.Store
	prefix string
}

func (a apart) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	return a.Store.Writer(ctx, append(opts, content.WithRef(a.prefix+"-"+o.Ref))...)
}

func (a apart) Abort(ctx context.Context, ref string) error {
	return a.Store.Abort(ctx, a.prefix+"-"+ref)
}

func notAnArchive(err error) error {
	text := "the archive cannot be loaded: " + err.Error()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		text = "the archive cannot be loaded: it ends too early"
	}
	return errdefs.ErrInvalidArgument.WithMessage(text + "; it must be what `docker save`, `skopeo copy` or an OCI layout tool wrote (for the files of a container write import)")
}

// label ties each blob to those that it names, for the collector.
func (s *depot) label(ctx context.Context, d ocispec.Descriptor) error {
	children := images.FilterPlatforms(images.ChildrenHandler(s.blobs), platforms.All)
	tied := images.SetChildrenMappedLabels(s.blobs, func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		list, err := children(ctx, d)
		if errdefs.IsNotFound(err) { // a platform that the archive leaves out
			return nil, nil
		}
		return list, err
	}, nil)
	if err := images.Walk(ctx, tied, d); err != nil {
		return notAnArchive(err)
	}
	return nil
}

func (s *depot) unpackLoaded(ctx context.Context, d ocispec.Descriptor, wanted []ocispec.Platform, show func(layer) watch) error {
	in, err := s.read(ctx, &catalog{}, d)
	if err != nil {
		return notAnArchive(err)
	}
	if !slices.ContainsFunc(in.variants, func(v *variant) bool { return v.here }) {
		return errdefs.ErrInvalidArgument.WithMessage("the archive has an image without a manifest")
	}
	if len(wanted) == 0 {
		v, err := in.choose(d.Digest.String(), nil)
		if err != nil {
			return nil // unpacked when it is used
		}
		return s.unpackVariant(ctx, v, show)
	}
	for i := range wanted {
		v, err := in.choose(d.Digest.String(), &wanted[i])
		if err != nil {
			return err
		}
		if err := s.unpackVariant(ctx, v, show); err != nil {
			return err
		}
	}
	return nil
}

func (s *depot) unpackVariant(ctx context.Context, v *variant, show func(layer) watch) error {
	if err := s.unpack(ctx, v.desc, &v.platform, show); err != nil {
		if errdefs.IsNotFound(err) {
			return notAnArchive(err)
		}
		return err
	}
	return nil
}

// nameLoaded gives a loaded image the names that the archive has for it.
func (s *Service) nameLoaded(ctx context.Context, d ocispec.Descriptor, show Progress) error {
	name := d.Annotations[images.AnnotationImageName]
	if ref := d.Annotations[ocispec.AnnotationRefName]; name == "" && strings.ContainsAny(ref, ":/") {
		name = ref // without these it is a tag of OCI layouts, not a name
	}
	named, err := parseName(name)
	if err != nil || name == "" {
		if err := s.setDangling(ctx, d); err != nil {
			return err
		}
		say(show, jsonstream.Message{Stream: "Loaded image ID: " + d.Digest.String() + "\n"})
		s.publish("load", d.Digest.String(), d.Digest.String(), nil)
		return nil
	}
	if err := s.setName(ctx, named.String(), d); err != nil {
		return err
	}
	say(show, jsonstream.Message{Stream: fmt.Sprintf("Loaded image: %s\n", reference.FamiliarString(named))})
	s.publish("load", d.Digest.String(), reference.FamiliarString(named), nil)
	return nil
}

func say(show Progress, m jsonstream.Message) {
	if show != nil {
		show(m)
	}
}
