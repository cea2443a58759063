package dockerroot

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"

	"hezi/internal/image/archive"
)

// trees says where storage drivers have a layer's files. With some it is the whole
// tree of the image up to the layer; only the layer's own files are read of it.
var trees = map[string]string{
	"overlay2": "overlay2/%s/diff", "fuse-overlayfs": "fuse-overlayfs/%s/diff", "overlay": "overlay/%s/root",
	"vfs": "vfs/dir/%s", "btrfs": "btrfs/subvolumes/%s", "aufs": "aufs/diff/%s",
}

const (
	maxConfig = 8 << 20   // bytes of an image's configuration
	maxSplit  = 8 << 30   // bytes of the list of a layer's files, unpacked
	maxPart   = 8 << 20   // bytes of one part of it: all headers before a file, in base64
	maxParts  = 4 << 20   // in a list: two for each file
	maxNames  = 256 << 20 // bytes of the names in a list, which are kept until its end
	maxLayers = 1000
)

// graph has the images of a storage driver of Docker's own.
type graph struct {
	root   *os.Root // image/DRIVER
	data   *os.Root // the data root
	driver string
	list   []entry
	said   []string // warnings
}

var _ store = (*graph)(nil)

// graphs finds what image/ has.
func (r *Root) graphs() ([]candidate, error) {
	entries, err := readDir(r.at, "image")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []candidate
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		root, err := r.at.OpenRoot(path.Join("image", e.Name()))
		if err != nil {
			return nil, err
		}
		g := &graph{root: root, data: r.at, driver: e.Name()}
		err = g.read()
		if errors.Is(err, fs.ErrNotExist) { // nothing was ever stored there
			g.close()
			continue
		}
		out = append(out, candidate{store: g, place: filepath.Join(r.path, "image", e.Name()), driver: e.Name(), err: err, warnings: g.said})
	}
	return out, nil
}

func (g *graph) close() { _ = g.root.Close() } // only read

func (g *graph) entries() []entry { return g.list }

// read lists the images: configurations, and the names that they have.
func (g *graph) read() error {
	var named struct {
		Repositories map[string]map[string]digest.Digest
	}
	if err := readJSON(g.root, "repositories.json", &named); err != nil {
		return err
	}
	files, err := readDir(g.root, "imagedb/content/sha256")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	at := map[digest.Digest]int{}
	for _, f := range files {
		id := digest.NewDigestFromEncoded(digest.SHA256, f.Name())
		if id.Validate() == nil {
			at[id] = len(g.list)
			g.list = append(g.list, entry{id: id, of: g})
		}
	}
	for _, names := range named.Repositories {
		for name, id := range names {
			i, ok := at[id]
			if !ok {
				continue // Docker does not list it either
			}
			if err := g.list[i].addName(name); err != nil {
				g.said = append(g.said, err.Error())
			}
		}
	}
	return nil
}

// body is an image's configuration as it is stored.
func (g *graph) body(id digest.Digest) ([]byte, error) {
	body, err := readFile(g.root, "imagedb/content/sha256/"+id.Encoded(), maxConfig)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(body); got != id {
		return nil, fmt.Errorf("the image's configuration is damaged: its digest is %s", got)
	}
	return body, nil
}

func (g *graph) config(id digest.Digest) (ocispec.Image, error) {
	var out ocispec.Image
	body, err := g.body(id)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("the image's configuration is damaged: %w", err)
	}
	if len(out.RootFS.DiffIDs) > maxLayers {
		return out, fmt.Errorf("the image has more than %d layers", maxLayers)
	}
	for _, d := range out.RootFS.DiffIDs {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return out, fmt.Errorf("the image's configuration is damaged: %q is no layer", d)
		}
	}
	return out, nil
}

func (g *graph) saved(id digest.Digest) (archive.Saved, map[digest.Digest]opener, error) {
	var none archive.Saved
	config, err := g.config(id)
	if err != nil {
		return none, nil, err
	}
	body, err := g.body(id)
	if err != nil {
		return none, nil, err
	}
	blobs := map[digest.Digest]opener{id: inMemory(body)}
	layers := make([]ocispec.Descriptor, len(config.RootFS.DiffIDs))
	for i, diff := range config.RootFS.DiffIDs {
		l, err := g.layer(identity.ChainID(config.RootFS.DiffIDs[:i+1]), diff)
		if err != nil {
			return none, nil, fmt.Errorf("layer %s: %w", diff, err)
		}
		layers[i], blobs[diff] = ocispec.Descriptor{Digest: diff, Size: l.size}, l.open
	}
	manifest, target, made, err := archive.MakeManifest(ocispec.Descriptor{Digest: id, Size: int64(len(body))}, layers)
	if err != nil {
		return none, nil, err
	}
	blobs[target.Digest] = inMemory(made)
	return archive.Saved{Target: target, Manifest: manifest, Blobs: slices.Concat([]ocispec.Descriptor{target, manifest.Config}, manifest.Layers)}, blobs, nil
}

func inMemory(body []byte) opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
}

// layer is one that can be made an archive again.
type layer struct {
	g     *graph
	split string // the file that has all but the files' content
	tree  string // the folder that has the files
	size  int64  // bytes of the archive
}

var isCacheID = regexp.MustCompile(`^[0-9a-zA-Z]+(-init)?$`)

func (g *graph) layer(chain, diff digest.Digest) (*layer, error) {
	tree, ok := trees[g.driver]
	if !ok {
		return nil, fmt.Errorf("the storage driver %s has no folders that could be read: start Docker, and import from it", g.driver)
	}
	at := "layerdb/sha256/" + chain.Encoded() + "/"
	is, err := readFile(g.root, at+"diff", 1024)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(string(is)) != diff.String() {
		return nil, fmt.Errorf("%s says that it is another one", filepath.Join(g.root.Name(), at, "diff"))
	}
	id, err := readFile(g.root, at+"cache-id", 1024)
	if err != nil {
		return nil, err
	}
	if !isCacheID.Match(bytes.TrimSpace(id)) {
		return nil, fmt.Errorf("%s is damaged", filepath.Join(g.root.Name(), at, "cache-id"))
	}
	l := &layer{g: g, split: at + "tar-split.json.gz", tree: fmt.Sprintf(tree, bytes.TrimSpace(id))}
	return l, l.measure()
}

// entriesOf reads the list of a layer's parts.
func (l *layer) parts() (storage.Unpacker, io.Closer, error) {
	f, err := openFile(l.g.root, l.split)
	if err != nil {
		return nil, nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		_ = f.Close() // only read
		return nil, nil, fmt.Errorf("%s is damaged: %w", f.Name(), err)
	}
	return &boundedParts{Unpacker: storage.NewJSONUnpacker(&boundedLines{r: io.LimitReader(z, maxSplit)})}, f, nil
}

// boundedLines refuses a line of more than maxPart bytes before it is in memory.
type boundedLines struct {
	r      io.Reader
	length int // of the line that has not ended
}

func (b *boundedLines) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	for rest := p[:n]; ; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		if b.length += len(line); b.length > maxPart {
			return 0, fmt.Errorf("a part has more than %d bytes", maxPart)
		}
		if !ended {
			return n, err
		}
		b.length, rest = 0, after
	}
}

// boundedParts refuses a list of which too much would be kept in memory.
type boundedParts struct {
	storage.Unpacker
	parts, names int
}

func (b *boundedParts) Next() (*storage.Entry, error) {
	p, err := b.Unpacker.Next()
	if err != nil {
		return nil, err
	}
	b.parts++
	if b.names += len(p.Name) + len(p.NameRaw); b.parts > maxParts || b.names > maxNames {
		return nil, fmt.Errorf("the layer has more than %d parts, or names of more than %d bytes", maxParts, maxNames)
	}
	return p, nil
}

// measure adds up the archive, whose length must be known before it is sent.
func (l *layer) measure() error {
	parts, file, err := l.parts()
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		p, err := parts.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s is damaged: %w", filepath.Join(l.g.root.Name(), l.split), err)
		}
		switch {
		case p.Type == storage.SegmentType:
			l.size += int64(len(p.Payload))
		case p.Size < 0:
			return fmt.Errorf("%s is damaged: a file has %d bytes", filepath.Join(l.g.root.Name(), l.split), p.Size)
		default:
			l.size += p.Size
		}
	}
}

// open is the layer's archive, as it was when it came.
func (l *layer) open() (io.ReadCloser, error) {
	tree, err := openQuietly(l.g.data, l.tree, unix.O_DIRECTORY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	parts, file, err := l.parts()
	if err != nil {
		_ = tree.Close() // only read
		return nil, err
	}
	r, w := io.Pipe()
	go func() {
		err := asm.WriteOutputTarStream(files{tree}, parts, w)
		_, _ = file.Close(), tree.Close() // only read
		_ = w.CloseWithError(err)         // never fails; nil is the end
	}()
	return r, nil
}

// files reads the files of a layer. Their names, and the links on the way to them,
// are the image's, and mean what they mean in it.
type files struct{ tree *os.File }

// Get implements [storage.FileGetter].
func (f files) Get(name string) (io.ReadCloser, error) {
	at, err := pathrs.OpenatInRoot(f.tree, name)
	if err != nil {
		return nil, fmt.Errorf("the file %q: %w", name, err)
	}
	defer at.Close()
	info, err := at.Stat()
	if err != nil {
		return nil, fmt.Errorf("the file %q: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is no file any more", name)
	}
	out, err := pathrs.Reopen(at, unix.O_RDONLY|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) { // another's
		return pathrs.Reopen(at, unix.O_RDONLY)
	}
	return out, err
}
