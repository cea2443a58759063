package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/moby/moby/api/types/jsonstream"
	apiregistry "github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/image/push"
	"hezi/internal/image/registry"
)

// PushRequest sends an image to the registry that its name says.
type PushRequest struct {
	Reference string            // without a tag or digest: every tag of the repository
	Platform  *ocispec.Platform // nil: the image as it is
	Auth      *apiregistry.AuthConfig
	Headers   map[string][]string
}

// Push sends an image, or every tag of a repository, and shows how far it is.
func (s *Service) Push(ctx context.Context, r PushRequest, show Progress) error {
	named, err := reference.ParseNormalizedNamed(r.Reference)
	if err != nil {
		return badReference(r.Reference, err)
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	d := newDisplay(show)
	defer d.close()
	d.say("", "The push refers to repository ["+named.Name()+"]")
	names := []string{named.String()}
	if reference.IsNameOnly(named) {
		if names = tagsOf(c, named); len(names) == 0 {
			return errdefs.ErrNotFound.WithMessage("An image does not exist locally with the tag: " + reference.FamiliarName(named))
		}
	}
	repo := s.registries.Repository(named, registry.RepositoryOptions{Auth: r.Auth, Headers: r.Headers, Tell: func(line string) { d.say("", line) }})
	by, err := repo.Pusher()
	if err != nil {
		return err
	}
	for _, name := range names {
		ref, err := reference.ParseNamed(name)
		if err != nil {
			return badReference(name, err)
		}
		i, ok := c.byName[name]
		if !ok {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("tag does not exist: %s: tag the image with that name first (tag IMAGE %s)", reference.FamiliarString(ref), reference.FamiliarString(ref)))
		}
		p := pushing{s: s, c: c, ref: ref, target: i.Target, display: d,
			image: &push.Image{Blobs: s.blobs, To: repo, By: by, Name: ref}}
		if err := p.run(ctx, r.Platform); err != nil {
			return err
		}
	}
	return nil
}

// pushing is one name on its way.
type pushing struct {
	s       *Service
	c       *catalog
	ref     reference.Named
	target  ocispec.Descriptor
	display *display
	image   *push.Image
	note    any // for the client, when all is done
}

func (p *pushing) run(ctx context.Context, platform *ocispec.Platform) error {
	leased, release, err := p.s.lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	p.image.Show = func(d ocispec.Descriptor) push.Watch {
		w := p.display.layer(shortID(d.Digest))
		return func(status string, current, total int64) { w(step{status: status, current: current, total: total}) }
	}
	p.image.Wait = func(ctx context.Context, d time.Duration, w push.Watch) error {
		return countdown(ctx, d, func(st step) { w(st.status, 0, 0) })
	}
	p.image.Share = func(ctx context.Context, key string, w push.Watch, ready func(context.Context) (bool, error), work func(context.Context, push.Watch) error) error {
		return p.s.flights.do(ctx, "push "+key, func(st step) { w(st.status, st.current, st.total) }, ready, func(ctx context.Context, w watch) error {
			return work(ctx, func(status string, current, total int64) { w(step{status: status, current: current, total: total}) })
		})
	}
	in, err := p.s.read(leased, p.c, p.target)
	if err != nil {
		return err
	}
	target := p.target
	if platform != nil {
		v, err := in.exactly(reference.FamiliarString(p.ref), *platform)
		if err != nil {
			return err
		}
		target = v.desc
	}
	if err := p.plan(leased, &target, in, platform == nil); err != nil {
		return err
	}
	tag := ""
	if t, ok := p.ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if err := p.image.Run(leased, tag); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	if err := p.s.noteSource(leased, p.ref, p.image.Parts()); err != nil {
		p.s.log.Warn("an image was pushed, but its layers will not be mounted from there later", "name", p.ref, "error", err)
	}
	p.done(tag, target)
	return nil
}

// plan chooses what is pushed: of an index that cannot be whole, the one
// platform that is here.
func (p *pushing) plan(ctx context.Context, target *ocispec.Descriptor, in *contents, mayChoose bool) error {
	err := p.image.Plan(ctx, *target)
	if err == nil {
		return p.s.hold(ctx, p.image.Parts())
	}
	var missing *push.Missing
	if !errors.As(err, &missing) {
		return err
	}
	if !in.index || !mayChoose {
		p.aux(auxprogress.ContentMissing{ContentMissing: true, Desc: *target})
		return err
	}
	v, cerr := in.instead(reference.FamiliarString(p.ref))
	if cerr != nil {
		p.aux(auxprogress.ContentMissing{ContentMissing: true, Desc: *target})
		return cerr
	}
	index := *target
	*target = v.desc
	if err := p.image.Plan(ctx, *target); err != nil {
		if errors.As(err, &missing) {
			p.aux(auxprogress.ContentMissing{ContentMissing: true, Desc: *target})
		}
		return err
	}
	p.note = auxprogress.ManifestPushedInsteadOfIndex{ManifestPushedInsteadOfIndex: true, OriginalIndex: index, SelectedManifest: *target}
	return p.s.hold(ctx, p.image.Parts())
}

// instead is what is pushed of an index that is not whole: the only platform
// that is here, or the host's.
func (in *contents) instead(ref string) (*variant, error) {
	var here []*variant
	for _, v := range in.variants {
		if v.here {
			here = append(here, v)
		}
	}
	if len(here) == 1 {
		return here[0], nil
	}
	host := platforms.Default()
	slices.SortStableFunc(here, func(a, b *variant) int {
		switch {
		case host.Less(a.platform, b.platform):
			return -1
		case host.Less(b.platform, a.platform):
			return 1
		}
		return 0
	})
	if len(here) > 0 && host.Match(here[0].platform) {
		return here[0], nil
	}
	return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("multiple matching manifests found but no specific platform requested: not all platforms of %s are here: choose one with --platform, or pull the others", ref))
}

// done tells the client, and all who listen.
func (p *pushing) done(tag string, target ocispec.Descriptor) {
	if tag != "" {
		p.display.say("", fmt.Sprintf("%s: digest: %s size: %d", tag, target.Digest, target.Size))
		p.aux(struct { // as Docker before 29 sent it, which clients read
			Tag, Digest string
			Size        int64
		}{tag, target.Digest.String(), target.Size})
	}
	if p.note != nil {
		p.aux(p.note)
	}
	p.s.publish("push", reference.FamiliarString(p.ref), reference.FamiliarName(p.ref), nil)
}

// aux sends what programs read.
func (p *pushing) aux(v any) {
	body, err := json.Marshal(v)
	if err != nil {
		p.s.log.Error("write a note on a push as JSON", "error", err)
		return
	}
	raw := json.RawMessage(body)
	p.display.send(jsonstream.Message{Aux: &raw})
}

// noteSource records, in one write, that a repository has what we have. Nothing
// is written when that is known.
func (s *depot) noteSource(ctx context.Context, name reference.Named, list []ocispec.Descriptor) error {
	list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool {
		info, err := s.blobs.Info(ctx, d.Digest)
		return err != nil || push.Noted(info, name)
	})
	if len(list) == 0 {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		return push.Note(boltutil.WithTransaction(ctx, tx), s.blobs, name, list)
	})
}
