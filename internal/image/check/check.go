// Package check verifies what images consist of, blob by blob and layer by
// layer, and has what is bad made anew.
//
// A blob must have the size and the digest that it is known by. An unpacked
// layer must have the files that were recorded behind its unpacking (Trees); a
// layer without a record is compared with its blob, unpacked once more.
package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/image/sweep"
)

// Kinds of problems.
const (
	KindBlob     = "blob"
	KindLayer    = "layer"
	KindDatabase = "database"
	KindOrphans  = "orphans"
)

// Event is one line of what a check tells: one field is set.
type Event struct {
	Progress *Progress `json:",omitempty"`
	Problem  *Problem  `json:",omitempty"`
	Report   *Report   `json:",omitempty"`
}

// Progress is how far a check is.
type Progress struct {
	Doing          string // "blobs", "layers", "fetching", "unpacking"
	ID             string `json:",omitempty"`
	Current, Total int64  // bytes of blobs, number of layers
}

// Problem is one thing that is not as it should be.
type Problem struct {
	Kind       string
	ID         string   `json:",omitempty"` // digest of a blob, chain id of a layer
	What       string   // "is truncated: 10 of 20 bytes are there"
	Details    []string `json:",omitempty"` // files of a layer, the first of them
	Images     []string `json:",omitempty"` // names of those that it belongs to
	Containers []string `json:",omitempty"` // that run on it
	Repaired   bool
	Remedy     string `json:",omitempty"` // what was done, or is to be done
}

// Report is what a check came to.
type Report struct {
	Content             bool // whether contents were read, not only sizes
	Images              int
	Blobs, Layers       int
	Bytes               int64 // that were read of blobs
	Problems            []Problem
	Repaired, Remaining int
	// Unverified are layers of which there is no record, and no blob to compare with.
	Unverified []string `json:",omitempty"`
}

// Options of a check.
type Options struct {
	Content bool // read everything; otherwise only databases, sizes and folders
	Repair  bool
}

// Maker makes anew what is bad.
type Maker interface {
	// Fetch brings a blob from where it was pulled from, or from where one of
	// the images came that have it, and puts it in its place, verified.
	Fetch(ctx context.Context, d ocispec.Descriptor, names []string) (from string, err error)
	// Unpack unpacks a layer once more, in a folder of its own; the layers
	// below must be good.
	Unpack(ctx context.Context, l Layer) (dir string, discard func(), err error)
	// Exchange puts the folder that Unpack made in the place of a layer's. It
	// returns the containers that run on it instead, if there are any.
	Exchange(ctx context.Context, chain digest.Digest, dir string) (running []string, err error)
	// Reset forgets all unpacked layers, so that they are unpacked again, and
	// returns the containers that run instead, if there are any.
	Reset(ctx context.Context) (running []string, err error)
	// Running are the containers that run on a layer.
	Running(ctx context.Context, chain digest.Digest) []string
}

// Layer is one step of an image's chain.
type Layer struct {
	Blob   ocispec.Descriptor
	DiffID digest.Digest
	Chain  digest.Digest
	Parent digest.Digest // the chain below; "" at the bottom
}

// Store is what is checked.
type Store struct {
	Root        string
	Namespace   string
	Snapshotter string
	UpperLabel  string
	Context     func(context.Context) context.Context
	View        func(func(*bolt.Tx) error) error
	Names       images.Store
	Blobs       content.Store         // as the metadata sees it
	Layers      snapshots.Snapshotter // as it is on disk
	Trees       *Trees
	Sweep       *sweep.Store
	Maker       Maker
	Log         *slog.Logger
	// Databases are looked into, by the names of their files.
	Databases map[string]func(func(*bolt.Tx) error) error
}

// run is one check.
type run struct {
	*Store
	o      Options
	tell   func(Event)
	report *Report

	blobs  map[digest.Digest]*blob
	order  []digest.Digest // of blobs, as they were found
	size   int64           // of all blobs
	layers map[digest.Digest]*unpacked
	images map[string]bool
}

// blob is one that is known or wanted.
type blob struct {
	desc   ocispec.Descriptor
	images []string
	stored bool // the metadata has it
	err    error
}

// Run checks, and tells each problem when it is known. The error is of the
// check itself; what is wrong is in the report.
func (s *Store) Run(ctx context.Context, o Options, tell func(Event)) (*Report, error) {
	r := &run{Store: s, o: o, tell: tell, report: &Report{Content: o.Content, Problems: []Problem{}},
		blobs: map[digest.Digest]*blob{}, layers: map[digest.Digest]*unpacked{}, images: map[string]bool{}}
	ctx = s.Context(ctx)
	s.Trees.Drain(ctx)
	for _, step := range []func(context.Context) error{r.databases, r.find, r.checkBlobs, r.checkLayers, r.orphans} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	r.report.Images = len(r.images)
	tell(Event{Report: r.report})
	return r.report, nil
}

func (r *run) problem(p Problem) {
	slices.Sort(p.Images)
	p.Images = slices.Compact(p.Images)
	if p.Repaired {
		r.report.Repaired++
	} else {
		r.report.Remaining++
	}
	r.report.Problems = append(r.report.Problems, p)
	r.tell(Event{Problem: &p})
}

// databases has bbolt look for pages that are used twice or out of order.
func (r *run) databases(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(r.Databases)) {
		found, err := r.database(ctx, r.Databases[name])
		if err != nil {
			return fmt.Errorf("check %s: %w", name, err)
		}
		if len(found) > 0 {
			r.problem(Problem{Kind: KindDatabase, ID: name, What: "is damaged", Details: found,
				Remedy: "stop hezid, keep a copy of the data root, and put the file back from a backup"})
		}
	}
	return nil
}

// database checks a copy: bbolt's check cannot run beside changes, and they
// are not to wait for it.
func (r *run) database(ctx context.Context, view func(func(*bolt.Tx) error) error) (found []string, err error) {
	file, err := r.Sweep.Temporary("check.db")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	if err := view(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(file)
		return err
	}); err != nil {
		return nil, err
	}
	db, err := bolt.Open(file.Name(), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return []string{err.Error()}, nil
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() { // to the end: its goroutine waits for us
			// A page that is neither used nor free is lost space, not lost data.
			if len(found) < maxDetails && !strings.HasSuffix(err.Error(), "unreachable unfreed") {
				found = append(found, err.Error())
			}
		}
		return ctx.Err()
	})
	return found, err
}

// find lists the blobs that names lead to, and those that are kept for another
// reason; and the layers.
func (r *run) find(ctx context.Context) error {
	list, err := r.Names.List(ctx)
	if err != nil {
		return fmt.Errorf("read the names of images: %w", err)
	}
	for _, i := range list {
		r.images[i.Target.Digest.String()] = true
		if err := r.follow(ctx, i.Target, shown(i), 0, true); err != nil {
			return err
		}
	}
	err = r.Blobs.Walk(ctx, func(i content.Info) error {
		r.want(ocispec.Descriptor{Digest: i.Digest, Size: i.Size}, "").stored = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("read what blobs there are: %w", err)
	}
	return r.findLayers()
}

// shown is a name as users write it; one of Hezi's own is the image's id.
func shown(i images.Image) string {
	if strings.HasPrefix(i.Name, "hezi-") {
		return i.Target.Digest.String()
	}
	return i.Name
}

func (r *run) want(d ocispec.Descriptor, image string) *blob {
	b := r.blobs[d.Digest]
	if b == nil {
		b = &blob{desc: d}
		r.blobs[d.Digest] = b
		r.order = append(r.order, d.Digest)
		r.size += d.Size
	}
	if b.desc.MediaType == "" {
		b.desc = d
	}
	if image != "" {
		b.images = append(b.images, image)
	}
	return b
}

const (
	maxDepth   = 4
	maxDetails = 20
	maxJSON    = 16 << 20 // bytes of a manifest or config
)

// follow wants a blob and what it names. What an index names and is not here
// was not pulled; all else must be here.
func (r *run) follow(ctx context.Context, d ocispec.Descriptor, image string, depth int, required bool) error {
	if d.Digest.Validate() != nil || depth > maxDepth {
		return nil
	}
	_, err := r.Blobs.Info(ctx, d.Digest)
	stored := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("read what is known of blob %s: %w", d.Digest, err)
	}
	if !stored && !required {
		return nil
	}
	if b := r.blobs[d.Digest]; b != nil && slices.Contains(b.images, image) {
		return nil
	}
	b := r.want(d, image)
	b.stored = stored
	if !names(d) {
		return nil
	}
	// A bad one is found when blobs are read; repaired, it is followed then.
	return r.children(ctx, b, image, depth)
}

// names says whether a blob names others.
func names(d ocispec.Descriptor) bool {
	return images.IsIndexType(d.MediaType) || images.IsManifestType(d.MediaType)
}

// children follows what a manifest or index names, as far as it can be read.
func (r *run) children(ctx context.Context, b *blob, image string, depth int) error {
	body, err := r.readGood(b.desc)
	if err != nil {
		return r.labelled(ctx, b, image, depth)
	}
	if images.IsIndexType(b.desc.MediaType) {
		var index ocispec.Index
		if json.Unmarshal(body, &index) != nil {
			return nil
		}
		for _, m := range index.Manifests {
			if err := r.follow(ctx, m, image, depth+1, false); err != nil {
				return err
			}
		}
		return nil
	}
	var m ocispec.Manifest
	if json.Unmarshal(body, &m) != nil || m.Config.Digest.Validate() != nil {
		return nil
	}
	if err := r.follow(ctx, m.Config, image, depth+1, true); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if err := r.follow(ctx, l, image, depth+1, true); err != nil {
			return err
		}
	}
	r.chain(m, image)
	return nil
}

// labelled follows what the metadata says that a blob names, which itself
// cannot be read.
func (r *run) labelled(ctx context.Context, b *blob, image string, depth int) error {
	info, err := r.Blobs.Info(ctx, b.desc.Digest)
	if err != nil {
		return nil // it is told that the blob is bad
	}
	for _, k := range slices.Sorted(maps.Keys(info.Labels)) {
		what, ok := strings.CutPrefix(k, "containerd.io/gc.ref.content.")
		if !ok {
			continue
		}
		d := ocispec.Descriptor{Digest: digest.Digest(info.Labels[k])}
		switch {
		case strings.HasPrefix(what, "m."):
			d.MediaType = ocispec.MediaTypeImageManifest
		case what == "config":
			d.MediaType = ocispec.MediaTypeImageConfig
		}
		child, err := r.Blobs.Info(ctx, d.Digest)
		if err != nil {
			continue
		}
		d.Size = child.Size
		if err := r.follow(ctx, d, image, depth+1, true); err != nil {
			return err
		}
	}
	return nil
}

// readGood reads a small blob whose digest is right.
func (r *run) readGood(d ocispec.Descriptor) ([]byte, error) {
	f, err := os.Open(r.path(d.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxJSON))
	if err == nil && d.Digest.Algorithm().FromBytes(body) != d.Digest {
		err = errors.New("it has another digest")
	}
	return body, err
}

// chain notes how an image's layers stand on each other.
func (r *run) chain(m ocispec.Manifest, image string) {
	body, err := r.readGood(m.Config)
	if err != nil {
		return
	}
	var config ocispec.Image
	if json.Unmarshal(body, &config) != nil || len(config.RootFS.DiffIDs) != len(m.Layers) {
		return // an attestation, or broken where it was built
	}
	chains := identity.ChainIDs(slices.Clone(config.RootFS.DiffIDs))
	parent := digest.Digest("")
	for i, c := range chains {
		u := r.layer(c)
		u.Layer = Layer{Blob: m.Layers[i], DiffID: config.RootFS.DiffIDs[i], Chain: c, Parent: parent}
		u.images = append(u.images, image)
		parent = c
	}
}

func (r *run) path(d digest.Digest) string {
	return filepath.Join(r.Root, "content", "blobs", d.Algorithm().String(), d.Encoded())
}

// checkBlobs reads every blob; one that was repaired is followed again, for it
// may name others.
func (r *run) checkBlobs(ctx context.Context) error {
	var done int64
	for i := 0; i < len(r.order); i++ { // it may grow
		b := r.blobs[r.order[i]]
		show := func(n int64) {
			r.tell(Event{Progress: &Progress{Doing: "blobs", ID: b.desc.Digest.String(), Current: done + n, Total: r.size}})
		}
		show(0)
		b.err = r.checkBlob(ctx, b, show)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.report.Blobs++
		done += b.desc.Size
		if b.err == nil || r.removed(ctx, b) {
			continue
		}
		if err := r.badBlob(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// removed says whether a blob went with its image while others were checked.
func (r *run) removed(ctx context.Context, b *blob) bool {
	if !b.stored {
		return false
	}
	_, err := r.Blobs.Info(ctx, b.desc.Digest)
	return errdefs.IsNotFound(err)
}

// checkBlob says what is wrong with a blob.
func (r *run) checkBlob(ctx context.Context, b *blob, show func(int64)) error {
	f, err := os.Open(r.path(b.desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("is missing")
	}
	if err != nil {
		return fmt.Errorf("cannot be opened: %w", plain(err))
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot be read: %w", plain(err))
	}
	switch size := st.Size(); {
	case !st.Mode().IsRegular():
		return errors.New("is not a file")
	case size == 0 && b.desc.Size > 0:
		return fmt.Errorf("is empty: it had %d bytes", b.desc.Size)
	case size < b.desc.Size:
		return fmt.Errorf("is truncated: %d of %d bytes are there", size, b.desc.Size)
	case size > b.desc.Size:
		return fmt.Errorf("has %d bytes, not %d", size, b.desc.Size)
	}
	small := names(b.desc) || images.IsConfigType(b.desc.MediaType)
	if r.o.Content || small && b.desc.Size <= maxJSON {
		sum := b.desc.Digest.Algorithm().Hash()
		n, err := io.CopyBuffer(sum, &shownReader{ctx: ctx, r: f, show: show}, make([]byte, 256<<10))
		r.report.Bytes += n
		if err != nil {
			return fmt.Errorf("cannot be read: %w", plain(err))
		}
		if digest.NewDigest(b.desc.Digest.Algorithm(), sum) != b.desc.Digest {
			return errors.New("has other content than its digest says")
		}
	}
	if !b.stored {
		return errors.New("is not known to images.db")
	}
	return nil
}

// plain is an error without the path, which the digest names already.
func plain(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// shownReader tells every 64 MiB how much was read.
type shownReader struct {
	ctx     context.Context
	r       io.Reader
	show    func(int64)
	n, told int64
}

func (s *shownReader) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.n-s.told >= 64<<20 {
		s.told = s.n
		s.show(s.n)
	}
	return n, err
}

// badBlob tells of a bad blob, and has it fetched if that is wanted.
func (r *run) badBlob(ctx context.Context, b *blob) error {
	p := Problem{Kind: KindBlob, ID: b.desc.Digest.String(), What: b.err.Error(), Images: b.images, Remedy: "repair it with --repair, or remove the image and pull it again"}
	if r.o.Repair {
		r.tell(Event{Progress: &Progress{Doing: "fetching", ID: p.ID, Total: b.desc.Size}})
		from, err := r.Maker.Fetch(ctx, b.desc, b.images)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			b.err, b.stored = nil, true
			p.Repaired, p.Remedy = true, "fetched from "+from
		} else {
			p.Remedy = fmt.Sprintf("it cannot be fetched: %v: remove the image and pull or load it again", err)
		}
	}
	r.problem(p)
	if b.err != nil || !names(b.desc) {
		return nil
	}
	for _, image := range slices.Clone(b.images) {
		if err := r.children(ctx, b, image, 0); err != nil {
			return err
		}
	}
	return nil
}

// orphanAge is how long nothing has changed of what belongs to nothing: what
// is just being made is not known yet.
const orphanAge = 10 * time.Minute

// orphans looks for what belongs to nothing.
func (r *run) orphans(ctx context.Context) error {
	o, err := r.Sweep.Find(ctx)
	if err != nil {
		return err
	}
	o.Keep(time.Now().Add(-orphanAge))
	if len(o.Lost) > 0 {
		return nil // told with the layers
	}
	if !o.Empty() {
		p := Problem{Kind: KindOrphans, Details: head(slices.Concat(o.Blobs, o.Downloads, o.Folders)),
			What: fmt.Sprintf("%d files and folders belong to no image", len(o.Blobs)+len(o.Downloads)+len(o.Folders)), Remedy: "remove them with --repair, or start hezid again"}
		if r.o.Repair {
			if err := r.Sweep.Discard(ctx, o); err != nil {
				return err
			}
			p.Repaired, p.Remedy = true, "removed"
		}
		r.problem(p)
	}
	if r.o.Repair {
		r.Sweep.EmptyTrash(ctx)
	}
	return nil
}

func head(list []string) []string { return list[:min(len(list), maxDetails)] }
