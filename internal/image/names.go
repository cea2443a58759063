package image

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

const (
	danglingPrefix = "hezi-dangling@"
	pinnedPrefix   = "hezi-pinned@"
)

// reserved says whether a name in the database is ours, not the user's.
func reserved(name string) bool {
	return strings.HasPrefix(name, danglingPrefix) || strings.HasPrefix(name, pinnedPrefix)
}

// catalog is every name at one moment. It is never changed, only replaced;
// what images' blobs say is added as it is read.
type catalog struct {
	byName    map[string]images.Image
	byDigest  map[digest.Digest][]images.Image // sorted by name
	contents  sync.Map                         // digest.Digest of a target -> *contents
	blobs     sync.Map                         // digest.Digest -> whether it is here
	summaries sync.Map                         // digest.Digest of a target -> *summary, before it is measured
	weights   sync.Map                         // *contents or *variant -> *weight
	before    atomic.Pointer[catalog]          // whose contents may still be true; nil: there is none
}

// cache holds the present catalog; nil after a change.
type cache struct {
	mu      sync.Mutex // held while the names are read
	current atomic.Pointer[catalog]
	last    *catalog // guarded by mu: the one before, while there is no current one
}

// catalog gives the names of now. Without a change since the last call it
// reads nothing from disk.
func (s *index) catalog(ctx context.Context) (*catalog, error) {
	if c := s.cache.current.Load(); c != nil {
		return c, nil
	}
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if c := s.cache.current.Load(); c != nil {
		return c, nil
	}
	list, err := s.names.List(s.context(ctx))
	if err != nil {
		return nil, fmt.Errorf("read the names of images: %w", err)
	}
	c := &catalog{byName: make(map[string]images.Image, len(list)), byDigest: make(map[digest.Digest][]images.Image, len(list))}
	for _, i := range list {
		c.byName[i.Name] = i
		c.byDigest[i.Target.Digest] = append(c.byDigest[i.Target.Digest], i)
	}
	for _, same := range c.byDigest {
		slices.SortFunc(same, func(a, b images.Image) int { return strings.Compare(a.Name, b.Name) })
	}
	c.before.Store(s.cache.last)
	s.cache.last = nil
	s.cache.current.Store(c)
	return c, nil
}

// changed drops the catalog. It is called after a change is committed: a
// catalog that was read before is dropped even if it is stored after.
func (s *index) changed() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if c := s.cache.current.Swap(nil); c != nil {
		c.before.Store(nil)
		s.cache.last = c
	}
}

// update makes all changes of names in one transaction, s.change being held.
func (s *index) update(ctx context.Context, f func(ctx context.Context) error) error {
	ctx = s.context(ctx)
	defer s.changed()
	return s.diskError(s.db.Update(func(tx *bolt.Tx) error { return f(boltutil.WithTransaction(ctx, tx)) }))
}

// putName creates or moves a name within update.
func (s *index) putName(ctx context.Context, name string, target ocispec.Descriptor) error {
	now := time.Now()
	i := images.Image{Name: name, Target: bare(target), CreatedAt: now, UpdatedAt: now}
	_, err := s.names.Create(ctx, i)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.names.Update(ctx, i, "target")
	}
	if err != nil {
		return fmt.Errorf("store the name %s: %w", name, err)
	}
	return nil
}

// dropName removes a name, if it exists, within update.
func (s *index) dropName(ctx context.Context, name string) error {
	if err := s.names.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the name %s: %w", name, err)
	}
	return nil
}

// setName points ref, a canonical name (docker.io/library/busybox:latest), to
// target, whose content must be protected by a lease of ctx or by another
// name. An image that loses its last name so becomes dangling. It is on disk
// when setName returns; events are the caller's.
func (s *index) setName(ctx context.Context, ref string, target ocispec.Descriptor) error {
	s.change.Lock()
	defer s.change.Unlock()
	return s.moveName(ctx, ref, target)
}

// moveName is setName with s.change held.
func (s *index) moveName(ctx context.Context, ref string, target ocispec.Descriptor) error {
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	old, moved := c.byName[ref]
	if moved && old.Target.Digest == target.Digest {
		moved = false
	}
	return s.update(ctx, func(ctx context.Context) error {
		if moved && len(c.byDigest[old.Target.Digest]) == 1 {
			if err := s.putName(ctx, danglingPrefix+old.Target.Digest.String(), old.Target); err != nil {
				return err
			}
		}
		if err := s.putName(ctx, ref, target); err != nil {
			return err
		}
		for _, prefix := range []string{danglingPrefix, pinnedPrefix} { // it has a name now
			if err := s.dropName(ctx, prefix+target.Digest.String()); err != nil {
				return err
			}
		}
		return nil
	})
}

// setDangling keeps target without a name of the user's.
func (s *index) setDangling(ctx context.Context, target ocispec.Descriptor) error {
	s.change.Lock()
	defer s.change.Unlock()
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	for _, i := range c.byDigest[target.Digest] {
		if !strings.HasPrefix(i.Name, pinnedPrefix) {
			return nil
		}
	}
	return s.update(ctx, func(ctx context.Context) error {
		if err := s.dropName(ctx, pinnedPrefix+target.Digest.String()); err != nil {
			return err
		}
		return s.putName(ctx, danglingPrefix+target.Digest.String(), target)
	})
}

// bare is a descriptor as names keep it: what an archive or an index said
// about it (annotations, urls, inline data) is not the image's.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// parseName reads what a user typed as a name, adding docker.io/library/ and
// :latest where they are left out.
func parseName(s string) (reference.Named, error) {
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, badReference(s, err)
	}
	return reference.TagNameOnly(n), nil
}

// badReference says what is wrong with a reference, keeping Docker's words.
func badReference(s string, err error) error {
	text := err.Error() // "invalid reference format[: repository name (x) must be lowercase]"
	hint := ""
	_, after, _ := strings.Cut(s[strings.LastIndexByte(s, '/')+1:], ":")
	switch {
	case text != reference.ErrReferenceInvalidFormat.Error():
	case s == "":
		hint = "the name of the image is empty"
	case strings.Contains(s, "://"):
		hint = "write the image without " + s[:strings.Index(s, "://")+3]
	case strings.ContainsAny(s, " \t\n"):
		hint = "an image's name has no spaces"
	case strings.HasPrefix(s, "-"):
		hint = "an image's name does not begin with -"
	case strings.Contains(s, "@"):
		hint = "after @ comes a digest, as sha256: and 64 hexadecimal digits"
	case strings.HasSuffix(s, ":"):
		hint = "the tag after : is missing"
	case strings.ContainsFunc(after, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", r)
	}), len(after) > 128:
		hint = "a tag has at most 128 letters, digits, _ . and -"
	default:
		hint = "a name has lowercase letters, digits and single . _ - between them, then :TAG"
	}
	if hint != "" {
		hint = ": " + hint
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid reference format%s: %q", orText(hint, text), s))
}

// orText is hint, or what text adds to "invalid reference format".
func orText(hint, text string) string {
	if hint != "" {
		return hint
	}
	if after, ok := strings.CutPrefix(text, "invalid reference format"); ok {
		return after
	}
	return ": " + text
}

// familiar is a stored name as users write it.
func familiar(name string) string {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(n)
}
