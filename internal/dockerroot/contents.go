package dockerroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/image/archive"
)

const (
	metaFile = "io.containerd.metadata.v1.bolt/meta.db"
	blobDir  = "io.containerd.content.v1.content/blobs/sha256/"

	// dangling begins the names that Docker gives to images without one.
	dangling = "moby-dangling@"
	// attests marks a manifest of an index that is no image.
	attests  = "vnd.docker.reference.type"
	maxDepth = 4
)

// contents has the images of a containerd image store. It holds containerd's lock.
type contents struct {
	root *os.Root
	db   *bolt.DB
	list []entry
	is   map[digest.Digest]ocispec.Descriptor
}

var _ store = (*contents)(nil)

// openContents looks for containerd's root at places. needed says that Docker's images
// are there, or some of them.
func (r *Root) openContents(places []string, needed bool) error {
	found := false
	for _, place := range places {
		root, err := os.OpenRoot(place)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return refused(place, err)
		}
		c := &contents{root: root, is: map[digest.Digest]ocispec.Descriptor{}}
		c.db, err = openBolt(root, metaFile)
		if err != nil {
			c.close()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errBusy) && !needed:
			continue
		case errors.Is(err, errBusy):
			return fmt.Errorf("the images of Docker are in %s, on which a containerd runs: stop it, too (systemctl stop containerd)", place)
		case err != nil:
			return refused(place, err)
		}
		found = true
		r.stores = append(r.stores, c)
		if err := c.read(r.namespace()); err != nil {
			return fmt.Errorf("the images in %s: %w", place, err)
		}
	}
	if needed && !found {
		return fmt.Errorf("the images of Docker are not in %s, and no root of containerd's is at %s: name it with --containerd-root", r.path, strings.Join(places, " or "))
	}
	return nil
}

// namespace is Docker's in containerd; with userns-remap its data root is UID.GID.
func (r *Root) namespace() string {
	if base := filepath.Base(r.path); regexp.MustCompile(`^[0-9]+\.[0-9]+$`).MatchString(base) {
		return "moby-" + base
	}
	return "moby"
}

func (c *contents) close() {
	if c.db != nil {
		_ = c.db.Close() // only read
	}
	_ = c.root.Close() // only read
}

func (c *contents) entries() []entry { return c.list }

func (c *contents) read(namespace string) error {
	ctx := namespaces.WithNamespace(context.Background(), namespace)
	var all []images.Image
	err := view(c.root, metaFile, c.db, func(*bolt.Tx) (err error) {
		all, err = metadata.NewImageStore(metadata.NewDB(c.db, nil, nil)).List(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for _, i := range all {
		if err := i.Target.Digest.Validate(); err != nil || i.Target.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("%q has the digest %q", i.Name, i.Target.Digest)
		}
		at := slices.IndexFunc(c.list, func(e entry) bool { return e.id == i.Target.Digest })
		if at < 0 {
			at, c.list = len(c.list), append(c.list, entry{id: i.Target.Digest, of: c})
			c.is[i.Target.Digest] = ocispec.Descriptor{MediaType: i.Target.MediaType, Digest: i.Target.Digest, Size: i.Target.Size}
		}
		if !strings.HasPrefix(i.Name, dangling) {
			if err := c.list[at].addName(i.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// has says how long a blob is; one that is missing has no length.
func (c *contents) has(d digest.Digest) (size int64, ok bool) {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return 0, false
	}
	info, err := c.root.Lstat(blobDir + d.Encoded())
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// json reads a small blob.
func (c *contents) json(d digest.Digest, out any) error {
	body, err := readFile(c.root, blobDir+d.Encoded(), maxConfig)
	if err != nil {
		return err
	}
	if got := digest.FromBytes(body); got != d {
		return fmt.Errorf("blob %s is damaged: its content has digest %s", d, got)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("blob %s is damaged: %w", d, err)
	}
	return nil
}

func (c *contents) config(id digest.Digest) (ocispec.Image, error) {
	var out ocispec.Image
	s, _, err := c.saved(id)
	if err != nil {
		return out, err
	}
	return out, c.json(s.Manifest.Config.Digest, &out)
}

func (c *contents) saved(id digest.Digest) (archive.Saved, map[digest.Digest]opener, error) {
	w := walk{c: c, saved: archive.Saved{Target: c.is[id]}, blobs: map[digest.Digest]opener{}}
	if err := w.add(c.is[id], 0); err != nil {
		return archive.Saved{}, nil, err
	}
	switch {
	case w.main != nil:
		w.saved.Manifest = *w.main
		return w.saved, w.blobs, nil
	case w.missing != "":
		return archive.Saved{}, nil, fmt.Errorf("its layer %s is not in containerd's store: start Docker, pull the image, and import again", w.missing)
	}
	return archive.Saved{}, nil, errors.New("it has no files for any platform in containerd's store: start Docker, pull the image, and import again")
}

// walk collects what is there of an image.
type walk struct {
	c        *contents
	saved    archive.Saved
	blobs    map[digest.Digest]opener
	main     *ocispec.Manifest // which this machine would run best
	platform ocispec.Platform  // of main
	missing  digest.Digest     // a layer
}

func (w *walk) blob(d ocispec.Descriptor) bool {
	size, ok := w.c.has(d.Digest)
	if !ok || w.blobs[d.Digest] != nil {
		return ok
	}
	d.Size = size // a wrong one would be found by the digest
	w.saved.Blobs = append(w.saved.Blobs, d)
	w.blobs[d.Digest] = func() (io.ReadCloser, error) { return openFile(w.c.root, blobDir+d.Digest.Encoded()) }
	return true
}

// add takes a manifest or an index with all that it names and that is there.
func (w *walk) add(d ocispec.Descriptor, depth int) error {
	if depth > maxDepth {
		return errors.New("its manifests are in one another too deep")
	}
	if !w.blob(d) {
		return nil
	}
	if images.IsIndexType(d.MediaType) {
		var index ocispec.Index
		if err := w.c.json(d.Digest, &index); err != nil {
			return err
		}
		for _, m := range index.Manifests {
			if err := w.add(m, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if !images.IsManifestType(d.MediaType) {
		return nil
	}
	var m ocispec.Manifest
	if err := w.c.json(d.Digest, &m); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if _, ok := w.c.has(l.Digest); !ok && !images.IsNonDistributable(l.MediaType) {
			w.missing = l.Digest
			return nil
		}
	}
	if !w.blob(m.Config) {
		w.missing = m.Config.Digest
		return nil
	}
	for _, l := range m.Layers {
		w.blob(l)
	}
	return w.choose(d, m)
}

// choose takes a manifest for main if this machine runs it better.
func (w *walk) choose(d ocispec.Descriptor, m ocispec.Manifest) error {
	if d.Annotations[attests] != "" || !images.IsConfigType(m.Config.MediaType) {
		return nil
	}
	var config ocispec.Image
	if err := w.c.json(m.Config.Digest, &config); err != nil {
		return err
	}
	p := config.Platform
	if d.Platform != nil {
		p = *d.Platform
	}
	if w.main == nil || platforms.Default().Less(p, w.platform) {
		w.main, w.platform = &m, p
	}
	return nil
}
