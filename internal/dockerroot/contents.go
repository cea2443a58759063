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
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
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

	// containerdDaemon is the root of the containerd that dockerd starts.
	containerdDaemon = "containerd/daemon"

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
	at   map[digest.Digest]int // in list
	is   map[digest.Digest]ocispec.Descriptor
	said []string // warnings
}

var _ store = (*contents)(nil)

// contents looks for roots of containerd's.
func (r *Root) contents(containerd string) []candidate {
	var out []candidate
	open := func(place string, root *os.Root, err error) {
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		found := candidate{place: place, containerd: true, err: err}
		if err == nil {
			c := &contents{root: root, at: map[digest.Digest]int{}, is: map[digest.Digest]ocispec.Descriptor{}}
			found = c.open(place, r.namespace())
			if errors.Is(found.err, fs.ErrNotExist) {
				c.close()
				return
			}
		}
		out = append(out, found)
	}
	if containerd != "" {
		root, err := openFolder(containerd)
		open(containerd, root, err)
		return out
	}
	root, err := subRoot(r.at, containerdDaemon)
	open(filepath.Join(r.path, containerdDaemon), root, err)
	beside := filepath.Join(filepath.Dir(r.path), "containerd")
	root, err = openFolder(beside)
	open(beside, root, err)
	return out
}

// open reads the images, as far as containerd lets it.
func (c *contents) open(place, namespace string) (found candidate) {
	found = candidate{store: c, place: place, containerd: true}
	if c.db, found.err = openBolt(c.root, metaFile); found.err == nil {
		found.err = c.read(namespace)
		found.warnings = c.said
		return found
	}
	if !errors.Is(found.err, errBusy) {
		return found
	}
	// What a containerd that runs has is not taken, but it must be known whether it is Docker's.
	found.err, found.busy = nil, true
	if copied, err := copyBolt(c.root, metaFile); err == nil {
		read := &contents{root: c.root, db: copied, at: map[digest.Digest]int{}, is: map[digest.Digest]ocispec.Descriptor{}}
		err = read.read(namespace)
		_ = copied.Close() // a copy in memory
		found.free = err == nil && len(read.list) == 0
	}
	return found
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
	return view(c.root, metaFile, c.db, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("v1"))
		for _, name := range []string{namespace, "images"} {
			if b == nil {
				return nil
			}
			b = b.Bucket([]byte(name))
		}
		if b == nil {
			return nil
		}
		ctx := boltutil.WithTransaction(ctx, tx)
		all := metadata.NewImageStore(metadata.NewDB(c.db, nil, nil))
		return b.ForEachBucket(func(name []byte) error {
			i, err := all.Get(ctx, string(name))
			if err == nil {
				err = c.take(i)
			}
			if err != nil {
				c.said = append(c.said, fmt.Sprintf("image %q: not taken under this name: %v", name, err))
			}
			return nil
		})
	})
}

// take adds an image, or a name of one.
func (c *contents) take(i images.Image) error {
	if err := i.Target.Digest.Validate(); err != nil || i.Target.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("its digest is %q", i.Target.Digest)
	}
	at, ok := c.at[i.Target.Digest]
	if !ok {
		at, c.list = len(c.list), append(c.list, entry{id: i.Target.Digest, of: c})
		c.at[i.Target.Digest] = at
		c.is[i.Target.Digest] = ocispec.Descriptor{MediaType: i.Target.MediaType, Digest: i.Target.Digest, Size: i.Target.Size}
	}
	if strings.HasPrefix(i.Name, dangling) {
		return nil
	}
	return c.list[at].addName(i.Name)
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
	w := walk{c: c, saved: archive.Saved{Target: c.is[id]}, blobs: map[digest.Digest]opener{}, seen: map[digest.Digest]bool{}}
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
	seen     map[digest.Digest]bool
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
	if !w.blob(d) || w.seen[d.Digest] {
		return nil
	}
	w.seen[d.Digest] = true
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
