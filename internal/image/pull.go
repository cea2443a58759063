package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/image/registry"
)

// Pull gets an image, or with All every tag of a repository, and shows how far
// it is. What was downloaded when it fails stays for a day, so that the next
// try goes on from there; all else that it made is collected.
func (s *Service) Pull(ctx context.Context, r PullRequest, show Progress) error {
	named, err := reference.ParseNormalizedNamed(r.Reference)
	if err != nil {
		return badReference(r.Reference, err)
	}
	d := newDisplay(show)
	defer d.close()
	repo := s.registries.Repository(named, registry.RepositoryOptions{
		Auth: r.Auth, Headers: r.Headers, Tell: func(line string) { d.say("", line) },
	})
	p := &pull{s: s, repo: repo, platform: r.Platform, display: d}
	if !r.All {
		return p.run(ctx, reference.TagNameOnly(named))
	}
	if !reference.IsNameOnly(named) {
		return errdefs.ErrInvalidArgument.WithMessage("tag can't be used with --all-tags/-a: write the name alone: " + reference.FamiliarName(named))
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return err
	}
	if len(tags) == 0 {
		return errdefs.ErrNotFound.WithMessage("repository " + reference.FamiliarName(named) + " has no tags")
	}
	for _, t := range tags {
		tagged, err := reference.WithTag(named, t)
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the registry lists a tag that cannot be one: %q", t))
		}
		if err := p.run(ctx, tagged); err != nil {
			return err
		}
	}
	return nil
}

// pull is one request under way.
type pull struct {
	s        *Service
	repo     *registry.Repository
	platform *ocispec.Platform
	display  *display
}

// run pulls one reference.
func (p *pull) run(ctx context.Context, ref reference.Named) (err error) {
	name, shown := nameOf(ref)
	target, err := p.repo.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	p.display.say(shown, "Pulling from "+reference.Path(ref))
	leased, release, err := p.s.lease(ctx, leases.WithLabel(pullLabel, target.Digest.String()))
	if err != nil {
		return err
	}
	of := target.Digest.String()
	defer func() {
		if err != nil && mayPass(ctx, err) {
			p.s.leaveDownloads(leased, of)
		}
		release()
		if err != nil {
			p.s.collectLater()
		}
	}()
	fresh, err := p.content(leased, ctx, ref, &target)
	if err != nil {
		return err
	}
	old, oldErr := p.s.names.Get(leased, name)
	newer := fresh || oldErr != nil || old.Target.Digest != target.Digest
	if err := p.s.setName(leased, name, target); err != nil {
		return err
	}
	if err := p.s.forgetDownloads(leased, of); err != nil {
		return err
	}
	p.display.say("", "Digest: "+target.Digest.String())
	if newer {
		p.display.say("", "Status: Downloaded newer image for "+reference.FamiliarString(ref))
	} else {
		p.display.say("", "Status: Image is up to date for "+reference.FamiliarString(ref))
	}
	p.s.publish("pull", reference.FamiliarString(ref), reference.FamiliarName(ref), nil)
	return nil
}

// nameOf is the name to store, and what stands before "Pulling from". An image
// pulled by digest is kept by it, whatever tag stood beside.
func nameOf(ref reference.Named) (name, shown string) {
	if d, ok := ref.(reference.Digested); ok {
		if byDigest, err := reference.WithDigest(reference.TrimNamed(ref), d.Digest()); err == nil {
			return byDigest.String(), d.Digest().String()
		}
	}
	if t, ok := ref.(reference.Tagged); ok {
		return ref.String(), t.Tag()
	}
	return ref.String(), "latest"
}

// content brings everything that target needs on the wanted platform; fresh
// says whether anything was missing. It completes target's media type.
func (p *pull) content(ctx, plain context.Context, ref reference.Named, target *ocispec.Descriptor) (fresh bool, err error) {
	f := &fetch{pull: p, plain: context.WithoutCancel(p.s.context(plain))}
	manifest, m, err := f.manifest(ctx, ref, target, 0)
	if errors.Is(err, errSchema1) {
		if *target, err = f.convert(ctx, ref, *target); err == nil {
			manifest, m, err = f.manifest(ctx, ref, target, 0)
		}
	}
	if err != nil {
		return false, err
	}
	if !knownConfig(m.Config.MediaType) {
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"%s is not a container image: its config has media type %q", reference.FamiliarString(ref), m.Config.MediaType))
	}
	diffIDs, err := f.config(ctx, ref, m.Config)
	if err != nil {
		return false, err
	}
	list, err := layersOf(m, diffIDs)
	if err != nil {
		return false, fmt.Errorf("pull %s (%s): %w", reference.FamiliarString(ref), manifest.Digest, err)
	}
	if err := f.protect(ctx, list); err != nil {
		return false, err
	}
	if err := f.announce(ctx, list); err != nil {
		return false, err
	}
	if err := p.s.build(ctx, m.Config, list, f.bring, func(i int) watch { return f.watches[i] }); err != nil {
		return false, err
	}
	if err := p.s.noteSource(ctx, ref, append([]ocispec.Descriptor{*target, manifest, m.Config}, m.Layers...)); err != nil {
		return false, err
	}
	return f.fresh.Load(), nil
}

// protect has our lease hold all that the image needs, also what is here
// already or what another pull is bringing: its own lease may end before ours.
func (f *fetch) protect(ctx context.Context, list []layer) error {
	id, ok := leases.FromContext(ctx)
	if !ok || len(list) == 0 {
		return nil
	}
	err := f.s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, l := range list {
			for _, r := range []leases.Resource{{ID: l.blob.Digest.String(), Type: "content"}, {ID: l.chain.String(), Type: "snapshots/" + f.s.form.name}} {
				if err := f.s.leases.AddResource(ctx, leases.Lease{ID: id}, r); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("protect the layers from collection: %w", err)
	}
	return nil
}

// collectLater removes what nothing holds any more, in the background.
func (s *Service) collectLater() {
	s.inBackground(func(ctx context.Context) {
		if err := s.CollectGarbage(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("collect image content that nothing uses", "error", err)
		}
	})
}

// announce shows the layers that are to come, in order.
func (f *fetch) announce(ctx context.Context, list []layer) error {
	for _, l := range list {
		w := f.display.layer(shortID(l.blob.Digest))
		f.watches = append(f.watches, w)
		unpacked, err := f.s.hasSnapshot(ctx, l.chain)
		if err != nil {
			return err
		}
		stored, err := f.s.hasBlob(ctx, l.blob.Digest)
		if err != nil {
			return err
		}
		if !unpacked || !stored {
			f.fresh.Store(true)
			w(step{status: statusPulling})
		}
	}
	return nil
}

func shortID(d digest.Digest) string {
	e := d.Encoded()
	return e[:min(12, len(e))]
}
