package image

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// summary is an image while it is listed.
type summary struct {
	imagetypes.Summary
	target  ocispec.Descriptor
	in      *contents
	main    *variant // that the summary is about; nil when none is here
	created time.Time
}

// List has the images that pass the filters, newest first.
func (s *Service) List(ctx context.Context, o ListOptions) (out []imagetypes.Summary, err error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	// One view of the database for thousands of questions.
	err = s.db.View(func(tx *bolt.Tx) error {
		out, err = s.list(boltutil.WithTransaction(s.context(ctx), tx), c, o)
		return err
	})
	return out, err
}

func (s *Service) list(ctx context.Context, c *catalog, o ListOptions) ([]imagetypes.Summary, error) {
	passes, err := selection{&s.index, c}.filters(ctx, o.Filters)
	if err != nil {
		return nil, err
	}
	var list []*summary
	for d, same := range c.byDigest {
		if onlyPinned(same) {
			continue
		}
		sum, err := s.summarize(ctx, c, same)
		if err != nil {
			s.log.Warn("an image cannot be listed: pull or load it again", "image", d, "error", err)
			continue
		}
		if passes(sum) {
			list = append(list, sum)
		}
	}
	slices.SortFunc(list, func(a, b *summary) int {
		if n := b.created.Compare(a.created); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	var shared *overlap
	if o.SharedSize {
		if shared, err = s.overlap(ctx, c); err != nil {
			return nil, err
		}
	}
	usersOf := s.usersOf(ctx)
	out := make([]imagetypes.Summary, 0, len(list))
	for _, sum := range list {
		if err := s.measure(ctx, c, sum, o, shared); err != nil {
			return nil, err
		}
		users := usersOf(sum.target.Digest)
		sum.Containers = int64(len(users))
		if here := slices.DeleteFunc(slices.Clone(sum.Manifests), func(m imagetypes.ManifestSummary) bool { return !m.Available }); len(here) == 1 {
			here[0].ImageData.Containers = users // with several platforms here nobody knows whose they are
		}
		out = append(out, sum.Summary)
	}
	return out, nil
}

// usersOf tells the containers of an image; all are asked once.
func (s *Service) usersOf(ctx context.Context) func(digest.Digest) []string {
	if s.users == nil {
		return func(d digest.Digest) []string {
			running, stopped := s.inUse(ctx, d)
			return append(running, stopped...)
		}
	}
	users := map[digest.Digest][]string{}
	for _, u := range s.users() {
		users[u.Image] = append(users[u.Image], u.Container)
	}
	return func(d digest.Digest) []string { return users[d] }
}

// summarize tells what follows from the blobs and the names; it is made once
// for each catalog. The caller may change the summary, not what it points to.
func (s *depot) summarize(ctx context.Context, c *catalog, same []images.Image) (*summary, error) {
	if v, ok := c.summaries.Load(same[0].Target.Digest); ok {
		sum := *v.(*summary)
		return &sum, nil
	}
	made, err := s.makeSummary(ctx, c, same)
	if err != nil {
		return nil, err
	}
	c.summaries.Store(same[0].Target.Digest, made)
	sum := *made
	return &sum, nil
}

func (s *depot) makeSummary(ctx context.Context, c *catalog, same []images.Image) (*summary, error) {
	in, err := s.read(ctx, c, same[0].Target)
	if err != nil {
		return nil, err
	}
	sum := &summary{target: same[0].Target, in: in}
	sum.ID, sum.Containers, sum.SharedSize = same[0].Target.Digest.String(), -1, -1
	sum.RepoTags, sum.RepoDigests = namesOf(same)
	target := same[0].Target
	sum.Descriptor = &target
	sum.created = same[0].CreatedAt
	if v, err := in.choose("", nil); err == nil {
		sum.main = v
	} else if i := slices.IndexFunc(in.variants, func(v *variant) bool { return v.here }); i >= 0 {
		sum.main = in.variants[i]
	}
	sum.Labels = map[string]string{}
	if v := sum.main; v != nil {
		if l := v.config.Config.Labels; l != nil {
			sum.Labels = l
		}
		if v.config.Created != nil {
			sum.created = *v.config.Created
		}
	}
	sum.Created = sum.created.Unix()
	return sum, nil
}

// namesOf gives the tags, and the digests under which the names can be pulled.
func namesOf(same []images.Image) (tags, digests []string) {
	tags, digests = []string{}, []string{}
	for _, i := range same {
		if reserved(i.Name) {
			continue
		}
		n, err := reference.ParseNormalizedNamed(i.Name)
		if err != nil {
			continue
		}
		if _, tagged := n.(reference.Tagged); tagged {
			tags = append(tags, reference.FamiliarString(n))
		}
		d := reference.FamiliarName(n) + "@" + i.Target.Digest.String()
		if !slices.Contains(digests, d) {
			digests = append(digests, d)
		}
	}
	slices.Sort(tags)
	slices.Sort(digests)
	return tags, digests
}

// measure fills what must be read from disk: sizes and the platforms.
func (s *index) measure(ctx context.Context, c *catalog, sum *summary, o ListOptions, shared *overlap) error {
	total, err := s.size(ctx, c, sum.target, sum.in)
	if err != nil {
		return err
	}
	sum.Size = total
	if o.SharedSize {
		sum.Size, sum.SharedSize = shared.of(sum.target.Digest)
	}
	if o.Manifests {
		sum.Manifests, err = s.manifests(ctx, c, sum.in)
	}
	return err
}

// weight is what an image takes on disk.
type weight struct {
	content int64           // bytes of blobs that are here
	chains  []digest.Digest // its layers, each once
}

// size is what an image takes on disk: its blobs and its unpacked layers, in bytes.
func (s *depot) size(ctx context.Context, c *catalog, target ocispec.Descriptor, in *contents) (int64, error) {
	w := s.weigh(ctx, c, in, target, in)
	unpacked, err := s.unpackedAll(ctx, w)
	return w.content + unpacked, err
}

// variantSize is size for one platform.
func (s *depot) variantSize(ctx context.Context, c *catalog, v *variant) (content, unpacked int64, err error) {
	w := s.weigh(ctx, c, v, v.desc, &contents{variants: []*variant{v}})
	unpacked, err = s.unpackedAll(ctx, w)
	return w.content, unpacked, err
}

func (s *depot) unpackedAll(ctx context.Context, w *weight) (total int64, err error) {
	for _, chain := range w.chains {
		n, err := s.unpackedSize(ctx, chain)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// weigh adds up what contents have; it is done once for each key and catalog.
func (s *depot) weigh(ctx context.Context, c *catalog, key any, target ocispec.Descriptor, in *contents) *weight {
	if w, ok := c.weights.Load(key); ok {
		return w.(*weight)
	}
	w := &weight{}
	seen := map[digest.Digest]bool{}
	add := func(list ...ocispec.Descriptor) {
		for _, d := range list {
			if !seen[d.Digest] && s.present(ctx, c, d.Digest) {
				w.content += d.Size
			}
			seen[d.Digest] = true
		}
	}
	add(target)
	for _, a := range in.attestations {
		if a.here {
			add(a.desc, a.manifest.Config)
			add(a.manifest.Layers...)
		}
	}
	for _, v := range in.variants {
		if !v.here {
			continue
		}
		add(v.desc, v.manifest.Config)
		add(v.manifest.Layers...)
		for _, chain := range v.chains {
			if !slices.Contains(w.chains, chain) {
				w.chains = append(w.chains, chain)
			}
		}
	}
	c.weights.Store(key, w)
	return w
}

// unpackedSize is 0 for a layer that is not unpacked. One that is keeps its size.
func (s *depot) unpackedSize(ctx context.Context, chain digest.Digest) (int64, error) {
	if n, ok := s.sizes.Load(chain); ok {
		return n.(int64), nil
	}
	u, err := s.layers.Usage(s.context(ctx), chain.String())
	if errdefs.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("the size of layer %s: %w", chain, err)
	}
	s.sizes.Store(chain, u.Size)
	return u.Size, nil
}

// manifests are the platforms of an image, those that are not here too.
func (s *index) manifests(ctx context.Context, c *catalog, in *contents) ([]imagetypes.ManifestSummary, error) {
	out := []imagetypes.ManifestSummary{}
	for _, v := range in.variants {
		m := imagetypes.ManifestSummary{ID: v.desc.Digest.String(), Descriptor: v.desc, Available: v.here, Kind: imagetypes.ManifestKindImage,
			ImageData: &imagetypes.ImageProperties{Platform: v.platform}}
		if v.here {
			content, unpacked, err := s.variantSize(ctx, c, v)
			if err != nil {
				return nil, err
			}
			m.Size.Content, m.ImageData.Size.Unpacked, m.Size.Total = content, unpacked, content+unpacked
		}
		out = append(out, m)
	}
	return append(out, s.summarizeAttestations(ctx, in)...), nil
}

// selection is what filters choose from.
type selection struct {
	s *index
	c *catalog
}

// filters makes one test of all filters.
func (s selection) filters(ctx context.Context, f map[string]map[string]bool) (func(*summary) bool, error) {
	var tests []func(*summary) bool
	for key, values := range f {
		for value, on := range values {
			if !on {
				continue
			}
			test, err := s.filter(ctx, key, value)
			if err != nil {
				return nil, err
			}
			if key != "reference" {
				tests = append(tests, test)
			}
		}
	}
	if patterns := f["reference"]; len(patterns) > 0 {
		tests = append(tests, func(sum *summary) bool { return sum.keep(patterns) })
	}
	return func(sum *summary) bool {
		for _, t := range tests {
			if !t(sum) {
				return false
			}
		}
		return true
	}, nil
}

func (s selection) filter(ctx context.Context, key, value string) (func(*summary) bool, error) {
	switch key {
	case "dangling":
		want, err := strconv.ParseBool(value)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'dangling=%s': write true or false", value))
		}
		return func(sum *summary) bool { return (len(sum.RepoTags)+len(sum.RepoDigests) == 0) == want }, nil
	case "label", "label!":
		k, v, exact := strings.Cut(value, "=")
		return func(sum *summary) bool {
			got, ok := sum.Labels[k]
			return (ok && (!exact || got == v)) == (key == "label")
		}, nil
	case "before", "since":
		other, err := s.createdAt(ctx, value)
		if err != nil {
			return nil, err
		}
		return func(sum *summary) bool {
			return key == "before" && sum.created.Before(other) || key == "since" && sum.created.After(other)
		}, nil
	case "until":
		until, err := moment(value)
		if err != nil {
			return nil, err
		}
		return func(sum *summary) bool { return sum.created.Before(until) }, nil
	case "reference":
		if _, err := path.Match(value, ""); err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'reference=%s': %v", value, err))
		}
		return nil, nil
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s': the filters are before, dangling, label, reference, since, until", key))
}

// keep leaves only the names that match one of the patterns.
func (sum *summary) keep(patterns map[string]bool) bool {
	match := func(name string) bool {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return false
		}
		for p := range patterns {
			if ok, err := reference.FamiliarMatch(p, n); err == nil && ok {
				return true
			}
		}
		return false
	}
	sum.RepoTags = slices.DeleteFunc(slices.Clone(sum.RepoTags), func(n string) bool { return !match(n) })
	sum.RepoDigests = slices.DeleteFunc(slices.Clone(sum.RepoDigests), func(n string) bool { return !match(n) })
	return len(sum.RepoTags)+len(sum.RepoDigests) > 0
}

func (s selection) createdAt(ctx context.Context, ref string) (time.Time, error) {
	target, _, err := s.s.find(ctx, s.c, ref)
	if err != nil {
		return time.Time{}, err
	}
	sum, err := s.s.summarize(ctx, s.c, s.c.byDigest[target.Digest])
	if err != nil {
		return time.Time{}, err
	}
	return sum.created, nil
}

// moment reads a time as the filter until takes it: Unix seconds, RFC 3339, or
// a duration before now.
func moment(v string) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return time.Now().Add(-d), nil
	}
	if n, err := strconv.ParseFloat(v, 64); err == nil {
		return time.Unix(0, int64(n*1e9)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'until=%s': write a time such as 2026-01-31, or a duration such as 24h", v))
}
