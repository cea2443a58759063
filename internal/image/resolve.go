package image

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/hello"
)

// variant is one platform of an image.
type variant struct {
	desc     ocispec.Descriptor // of its manifest
	platform ocispec.Platform
	manifest ocispec.Manifest // empty when it is not here
	config   dockerspec.DockerOCIImage
	here     bool            // manifest and config are
	chains   []digest.Digest // chain ids, lowest first
}

// contents is what the blobs of a target say.
type contents struct {
	index        bool
	variants     []*variant
	attestations []*attestation
}

// maxManifest bounds what is read into memory of a manifest, an index or a config.
const maxManifest = 8 << 20

// read gives the contents of a target, from memory after the first time.
func (s *depot) read(ctx context.Context, c *catalog, target ocispec.Descriptor) (*contents, error) {
	if v, ok := c.contents.Load(target.Digest); ok {
		return v.(*contents), nil
	}
	if before := c.before.Load(); before != nil {
		if v, ok := before.contents.Load(target.Digest); ok && s.still(ctx, c, v.(*contents)) {
			c.contents.Store(target.Digest, v)
			return v.(*contents), nil
		}
	}
	ctx = s.context(ctx)
	out := &contents{index: images.IsIndexType(target.MediaType)}
	list := []ocispec.Descriptor{target}
	if out.index {
		var index ocispec.Index
		if err := s.readJSON(ctx, target, &index); err != nil {
			return nil, err
		}
		list = index.Manifests
	}
	for _, d := range list {
		if of, ok := attests(d); ok {
			out.attestations = append(out.attestations, s.readAttestation(ctx, d, of))
			continue
		}
		if !images.IsManifestType(d.MediaType) || d.Annotations[refersAs] != "" {
			continue // what is no image
		}
		v, err := s.readVariant(ctx, d)
		if err != nil {
			return nil, err
		}
		out.variants = append(out.variants, v)
	}
	c.contents.Store(target.Digest, out)
	return out, nil
}

// still says whether what was here when contents were read is, and what was not
// is not.
func (s *depot) still(ctx context.Context, c *catalog, in *contents) bool {
	for _, v := range in.variants {
		if here := s.present(ctx, c, v.desc.Digest) && (v.manifest.Config.Digest == "" || s.present(ctx, c, v.manifest.Config.Digest)); here != v.here {
			return false
		}
	}
	for _, a := range in.attestations {
		if s.present(ctx, c, a.desc.Digest) != a.here {
			return false
		}
	}
	return true
}

// present says whether a blob is here; it is looked up once for each catalog.
func (s *depot) present(ctx context.Context, c *catalog, d digest.Digest) bool {
	if v, ok := c.blobs.Load(d); ok {
		return v.(bool)
	}
	_, err := s.blobs.Info(s.context(ctx), d)
	c.blobs.Store(d, err == nil)
	return err == nil
}

func (s *depot) readVariant(ctx context.Context, d ocispec.Descriptor) (*variant, error) {
	v := &variant{desc: d}
	if d.Platform != nil {
		v.platform = platforms.Normalize(*d.Platform)
	}
	if err := s.readJSON(ctx, d, &v.manifest); errdefs.IsNotFound(err) {
		return v, nil
	} else if err != nil {
		return nil, err
	}
	if err := s.readJSON(ctx, v.manifest.Config, &v.config); errdefs.IsNotFound(err) {
		return v, nil
	} else if err != nil {
		return nil, err
	}
	v.here = true
	if d.Platform == nil {
		v.platform = platforms.Normalize(v.config.Platform)
	}
	v.chains = identity.ChainIDs(slices.Clone(v.config.RootFS.DiffIDs))
	return v, nil
}

func (s *depot) readJSON(ctx context.Context, d ocispec.Descriptor, v any) error {
	b, err := s.readSmall(ctx, d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the image is broken: %s is no JSON: %v", d.Digest, err))
	}
	return nil
}

// readSmall reads a manifest, an index or a config. How large it is, is the
// blob's own word: d may be anybody's.
func (s *depot) readSmall(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	ra, err := s.blobs.ReaderAt(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read the image content %s: %w", d.Digest, err)
	}
	defer ra.Close()
	if ra.Size() > maxManifest {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the blob %s is too large for a manifest: %d bytes", d.Digest, ra.Size()))
	}
	b := make([]byte, ra.Size())
	if n, err := ra.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read the image content %s: %w", d.Digest, err)
	}
	return b, nil
}

var shortDigest = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(sha256:)?([a-f0-9]{4,64})$`) })

// find gives the target that ref means, and the name, when ref is one.
// The error is NotFound for an unknown image and InvalidArgument for what is
// no reference or a prefix of several ids.
func (s *index) find(ctx context.Context, c *catalog, ref string) (target ocispec.Descriptor, name string, err error) {
	named, parseErr := reference.ParseNormalizedNamed(ref)
	if parseErr == nil {
		if t, name, ok := s.findName(ctx, c, named); ok {
			return t, name, nil
		}
	}
	if m := shortDigest().FindStringSubmatch(ref); m != nil {
		var found digest.Digest
		for d, same := range c.byDigest {
			if !strings.HasPrefix(d.Encoded(), m[2]) || onlyPinned(same) {
				continue
			}
			if found != "" {
				return target, "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the id %s is the beginning of several images' ids: write more of it", ref))
			}
			found = d
		}
		if found != "" {
			return c.byDigest[found][0].Target, "", nil
		}
		if m[1] != "" || parseErr != nil {
			return target, "", noSuchImage(ref)
		}
	}
	if parseErr != nil {
		return target, "", badReference(ref, parseErr)
	}
	return target, "", noSuchImage(reference.FamiliarString(reference.TagNameOnly(named)))
}

// onlyPinned says whether an image is left for containers alone.
func onlyPinned(list []images.Image) bool {
	return !slices.ContainsFunc(list, func(i images.Image) bool { return !strings.HasPrefix(i.Name, pinnedPrefix) })
}

func (s *index) findName(ctx context.Context, c *catalog, named reference.Named) (target ocispec.Descriptor, name string, ok bool) {
	if d, digested := named.(reference.Digested); digested {
		for _, i := range c.byDigest[d.Digest()] {
			if n, err := reference.ParseNormalizedNamed(i.Name); err == nil && !reserved(i.Name) && n.Name() == named.Name() {
				return i.Target, i.Name, true
			}
		}
		// An image that was converted is known by the digest that it had.
		if n, err := reference.WithDigest(reference.TrimNamed(named), d.Digest()); err == nil {
			i, ok := c.byName[n.String()]
			return i.Target, i.Name, ok
		}
		return target, "", false
	}
	name = reference.TagNameOnly(named).String()
	i, ok := c.byName[name]
	return i.Target, name, ok
}

// Resolve finds an image by its name, digest, id or the beginning of its id,
// and chooses its platform; nil is the host's, or the only one that is here.
// It reads memory only, but for the first time after images have changed.
func (s *Service) Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (*Image, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	target, _, err := s.find(ctx, c, ref)
	if isHello(ref) && s.helloWanted(ctx, c, target, err) {
		if err := s.makeHello(ctx); err != nil {
			return nil, err
		}
		if c, err = s.catalog(ctx); err != nil {
			return nil, err
		}
		target, _, err = s.find(ctx, c, ref)
	}
	if err != nil {
		return nil, err
	}
	in, err := s.read(ctx, c, target)
	if err != nil {
		return nil, err
	}
	v, err := in.choose(ref, platform)
	if err != nil {
		return nil, err
	}
	img := &Image{ID: target.Digest, Manifest: v.desc, Config: v.config, Layers: v.chains}
	img.Manifest.Platform = &v.platform
	for _, i := range c.byDigest[target.Digest] {
		if !reserved(i.Name) {
			img.Names = append(img.Names, familiar(i.Name))
		}
	}
	if v.config.Created != nil {
		img.CreatedAt = *v.config.Created
	}
	return img, nil
}

func isHello(ref string) bool {
	n, err := parseName(ref)
	return err == nil && reference.FamiliarString(n) == hello.Name
}

// choose picks a variant that is here.
func (in *contents) choose(ref string, platform *ocispec.Platform) (*variant, error) {
	want := platforms.Default()
	if platform != nil {
		want = platforms.Only(*platform)
	}
	var here []*variant
	var names []string
	for _, v := range in.variants {
		if v.here {
			here = append(here, v)
			names = append(names, platforms.Format(v.platform))
		}
	}
	var fit []*variant
	for _, v := range here {
		if want.Match(v.platform) {
			fit = append(fit, v)
		}
	}
	slices.SortStableFunc(fit, func(a, b *variant) int {
		switch {
		case want.Less(a.platform, b.platform):
			return -1
		case want.Less(b.platform, a.platform):
			return 1
		}
		return 0
	})
	switch {
	case len(fit) > 0:
		return fit[0], nil
	case platform == nil && len(here) == 1:
		return here[0], nil
	case platform != nil:
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s): it has %s here",
			ref, platforms.Format(*platform), strings.Join(names, ", ")))
	}
	return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but has nothing for this machine (%s): it has %s here; pull it again or write --platform",
		ref, platforms.DefaultString(), strings.Join(names, ", ")))
}

// RootFS gives an image's directories. They stay as long as a pin or a name
// holds the image. It writes nothing unless layers are not unpacked yet.
func (s *Service) RootFS(ctx context.Context, img *Image) (RootFS, error) {
	if len(img.Layers) == 0 {
		return RootFS{}, nil
	}
	top := img.Layers[len(img.Layers)-1]
	defer s.gate.pass(top)
	if v, ok := s.rootfs.Load(top); ok {
		// Directories of snapshots are never reused: one that is there is the
		// layer, and it holds those below.
		if root := v.(RootFS); exists(root.Lower[0]) && s.form.mountable(root.Lower) {
			return root, nil
		}
		s.rootfs.Delete(top)
	}
	lower, err := s.directories(ctx, top)
	if errdefs.IsNotFound(err) {
		var lctx context.Context
		var release func()
		if lctx, release, err = s.lease(ctx); err != nil {
			return RootFS{}, err
		}
		defer release()
		if err = s.unpack(lctx, img.Manifest, img.Manifest.Platform, unseen); err == nil {
			lower, err = s.directories(ctx, top)
		}
	}
	if err != nil {
		return RootFS{}, fmt.Errorf("the layers of image %s: %w", img.ID, err)
	}
	root := RootFS{Lower: lower}
	s.rootfs.Store(top, root)
	return root, nil
}

// directories are those of a chain of layers, topmost first.
func (s *depot) directories(ctx context.Context, top digest.Digest) ([]string, error) {
	var out []string
	for name := top.String(); name != ""; {
		info, err := s.layers.Stat(s.context(ctx), name)
		if err != nil {
			return nil, err
		}
		dir := info.Labels[upperLabel]
		if dir == "" {
			return nil, fmt.Errorf("the layer %s has no directory", name)
		}
		out, name = append(out, dir), info.Parent
		if s.form.whole {
			break
		}
	}
	if s.form.ready != nil {
		if err := s.form.ready(out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mountable says whether layers that were there can still be mounted.
func (f *form) mountable(dirs []string) bool { return f.ready == nil || f.ready(dirs) == nil }

// upperLabel is where the overlay snapshotter tells a snapshot's directory.
const upperLabel = "containerd.io/snapshot/overlay.upperdir"

func exists(dir string) bool {
	_, err := os.Lstat(dir)
	return err == nil
}
