package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/image/tree"
)

// unpacked is a layer that the metadata has, or an image names.
type unpacked struct {
	Layer
	images []string
	known  bool   // the metadata has it
	name   string // in the snapshotter
	tree   digest.Digest
	upper  string // its folder; "" when the snapshotter does not have it
}

func (r *run) layer(chain digest.Digest) *unpacked {
	u := r.layers[chain]
	if u == nil {
		u = &unpacked{Layer: Layer{Chain: chain}}
		r.layers[chain] = u
	}
	return u
}

// eachSnapshot asks the database itself: the metadata's own list leaves out
// what the snapshotter has lost.
func eachSnapshot(view func(func(*bolt.Tx) error) error, namespace, snapshotter string, f func(name string, b *bolt.Bucket) error) error {
	err := view(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("v1"))
		for _, name := range []string{namespace, "snapshots", snapshotter} {
			if b == nil {
				return nil
			}
			b = b.Bucket([]byte(name))
		}
		if b == nil {
			return nil
		}
		return b.ForEachBucket(func(k []byte) error { return f(string(k), b.Bucket(k)) })
	})
	if err != nil {
		return fmt.Errorf("read what layers there are: %w", err)
	}
	return nil
}

// LayerNames are the names of all layers in the metadata, also of those that
// are being unpacked.
func LayerNames(view func(func(*bolt.Tx) error) error, namespace, snapshotter string) (list []string, err error) {
	err = eachSnapshot(view, namespace, snapshotter, func(name string, _ *bolt.Bucket) error {
		list = append(list, name)
		return nil
	})
	return list, err
}

// findLayers reads what unpacked layers the metadata has.
func (r *run) findLayers() error {
	return eachSnapshot(r.View, r.Namespace, r.Snapshotter, func(name string, b *bolt.Bucket) error {
		chain := digest.Digest(name)
		if chain.Validate() != nil {
			return nil // being unpacked
		}
		labels, err := boltutil.ReadLabels(b)
		if err != nil {
			return err
		}
		u := r.layer(chain)
		u.known, u.name, u.tree = true, string(b.Get([]byte("name"))), digest.Digest(labels[TreeLabel])
		if u.Parent == "" {
			u.Parent = digest.Digest(b.Get([]byte("parent")))
		}
		return nil
	})
}

// upFirst are the known layers, each after the one below it.
func (r *run) upFirst() []*unpacked {
	depth := map[digest.Digest]int{}
	var list []*unpacked
	for c, u := range r.layers {
		if !u.known {
			continue
		}
		n := 0
		for p := u.Parent; p != "" && r.layers[p] != nil && n < len(r.layers); p = r.layers[p].Parent {
			n++
		}
		depth[c] = n
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b *unpacked) int {
		if n := depth[a.Chain] - depth[b.Chain]; n != 0 {
			return n
		}
		return strings.Compare(a.Chain.String(), b.Chain.String())
	})
	return list
}

func (r *run) checkLayers(ctx context.Context) error {
	list := r.upFirst()
	lost, err := r.locate(ctx, list)
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		return r.reset(ctx, lost)
	}
	for i, u := range list {
		r.tell(Event{Progress: &Progress{Doing: "layers", ID: u.Chain.String(), Current: int64(i), Total: int64(len(list))}})
		r.report.Layers++
		what, details, err := r.checkLayer(ctx, u)
		if err == nil && what != "" {
			if _, serr := r.Layers.Stat(ctx, u.name); errdefs.IsNotFound(serr) {
				continue // removed meanwhile
			}
			err = r.badLayer(ctx, u, what, details)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// locate finds the layers' folders, and those that the snapshotter has lost.
func (r *run) locate(ctx context.Context, list []*unpacked) (lost []*unpacked, err error) {
	for _, u := range list {
		info, err := r.Layers.Stat(ctx, u.name)
		switch {
		case errdefs.IsNotFound(err):
			if !r.gone(u) {
				lost = append(lost, u)
			}
		case err != nil:
			return nil, fmt.Errorf("look for layer %s: %w", u.Chain, err)
		default:
			u.upper = info.Labels[r.UpperLabel]
		}
	}
	return lost, nil
}

// gone says whether the metadata does not have the layer any more.
func (r *run) gone(u *unpacked) bool {
	now := &run{Store: r.Store, layers: map[digest.Digest]*unpacked{}}
	return now.findLayers() == nil && now.layers[u.Chain] == nil
}

// checkLayer says what is wrong with a layer's files, "" if nothing is.
func (r *run) checkLayer(ctx context.Context, u *unpacked) (what string, details []string, err error) {
	st, err := os.Lstat(u.upper)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is missing: its folder is not there", nil, nil
	case err != nil:
		return "cannot be read: " + plain(err).Error(), nil, nil
	case !st.IsDir():
		return "is no folder", nil, nil
	case r.Trees.Ready != nil && r.Trees.Ready([]string{u.upper}) != nil:
		return "cannot be mounted: its file is missing or damaged", nil, nil
	case !r.o.Content:
		return "", nil, nil
	case u.tree == "":
		return r.compareUnpacked(ctx, u)
	}
	sum, err := tree.Sum(ctx, u.upper, nil, nil)
	switch {
	case ctx.Err() != nil:
		return "", nil, ctx.Err()
	case err != nil:
		return "cannot be read: " + err.Error(), nil, nil
	case sum == u.tree:
		return "", nil, nil
	}
	if rerr := r.recordsGood(ctx, u); rerr != nil {
		return "has other files than it had when it was unpacked", nil, nil
	}
	in, err := records(u.upper)
	if err != nil {
		return "", nil, err
	}
	defer in.Close()
	n, details, err := changes(func(f func(tree.Change)) error { return tree.Compare(ctx, u.upper, in, nil, f) })
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("has %s", plural(n, "file that is", "files that are")) + " not as unpacked", details, nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// changes collects the first of them, and their number.
func changes(compare func(func(tree.Change)) error) (n int, details []string, err error) {
	err = compare(func(c tree.Change) {
		if n++; len(details) < maxDetails {
			details = append(details, fmt.Sprintf("/%s %s", strings.TrimPrefix(c.Path, "."), c.What))
		}
	})
	return n, details, err
}

// recordsGood verifies the names of a layer's files against its digest.
func (r *run) recordsGood(ctx context.Context, u *unpacked) error {
	in, err := records(u.upper)
	if err != nil {
		return err
	}
	defer in.Close()
	sum, err := digest.SHA256.FromReader(in)
	if err == nil && sum != u.tree {
		err = errors.New("they are not what was recorded")
	}
	return err
}

// compareUnpacked is for a layer of which nothing was recorded: it was unpacked
// just before a power cut, or by a former version.
func (r *run) compareUnpacked(ctx context.Context, u *unpacked) (what string, details []string, err error) {
	if len(u.images) == 0 {
		return "", nil, nil // on its way to an image, or out
	}
	if u.DiffID == "" || r.blobs[u.Blob.Digest] == nil || r.blobs[u.Blob.Digest].err != nil {
		r.report.Unverified = append(r.report.Unverified, u.Chain.String())
		return "", nil, nil
	}
	r.tell(Event{Progress: &Progress{Doing: "unpacking", ID: u.Chain.String()}})
	dir, discard, err := r.Maker.Unpack(ctx, u.Layer)
	if err != nil {
		return "", nil, fmt.Errorf("unpack layer %s to compare it: %w", u.Chain, err)
	}
	defer discard()
	file, err := os.CreateTemp(filepath.Dir(dir), "."+recordsName)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	z, err := zstd.NewWriter(file, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return "", nil, err
	}
	_, err = tree.Sum(ctx, dir, nil, z)
	if err = errors.Join(err, z.Close()); err != nil {
		return "", nil, err
	}
	if _, err := file.Seek(0, 0); err != nil {
		return "", nil, err
	}
	in, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return "", nil, err
	}
	defer in.Close()
	n, details, err := changes(func(f func(tree.Change)) error { return tree.Compare(ctx, u.upper, in, nil, f) })
	if err != nil || n == 0 {
		if err == nil {
			_, err = r.Trees.Record(ctx, u.Chain.String())
		}
		return "", nil, err
	}
	return "is not what its blob holds: " + plural(n, "file is", "files are") + " different", details, nil
}

// badLayer tells of a bad layer, and has it unpacked again if that is wanted.
func (r *run) badLayer(ctx context.Context, u *unpacked, what string, details []string) error {
	p := Problem{Kind: KindLayer, ID: u.Chain.String(), What: what, Details: details, Images: slices.Clone(u.images),
		Containers: r.Maker.Running(ctx, u.Chain), Remedy: "repair it with --repair"}
	if r.o.Repair {
		p.Repaired, p.Containers, p.Remedy = r.rebuild(ctx, u)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	r.problem(p)
	return nil
}

func (r *run) rebuild(ctx context.Context, u *unpacked) (repaired bool, running []string, remedy string) {
	if running = r.Maker.Running(ctx, u.Chain); len(running) > 0 {
		return false, running, inUse(running)
	}
	if u.DiffID == "" {
		return false, nil, "no image says which blob it was made from: remove its image, and pull it again"
	}
	if b := r.blobs[u.Blob.Digest]; b == nil || b.err != nil {
		return false, nil, "its blob " + u.Blob.Digest.String() + " is not there or bad, too: remove the image, and pull or load it again"
	}
	r.tell(Event{Progress: &Progress{Doing: "unpacking", ID: u.Chain.String()}})
	dir, discard, err := r.Maker.Unpack(ctx, u.Layer)
	if err != nil {
		return false, nil, "it cannot be unpacked: " + err.Error()
	}
	defer discard()
	if running, err = r.Maker.Exchange(ctx, u.Chain, dir); err == nil && len(running) > 0 {
		return false, running, inUse(running)
	}
	if err == nil {
		_, err = r.Trees.Record(ctx, u.Chain.String())
	}
	if err != nil {
		return false, nil, "it cannot be replaced: " + err.Error()
	}
	return true, nil, "unpacked again from its blob"
}

func inUse(running []string) string {
	short := make([]string, len(running))
	for i, id := range running {
		short[i] = id[:min(12, len(id))]
	}
	return "containers run on it, and replacing their files would break them: stop them (hezi stop " + strings.Join(short, " ") + "), repair again, and start them"
}

// reset is for a snapshotter that has lost its records: the folders are of no
// use without them.
func (r *run) reset(ctx context.Context, lost []*unpacked) error {
	p := Problem{Kind: KindLayer, What: plural(len(lost), "layer is", "layers are") + " missing in layers/metadata.db", Remedy: "unpack all images again with --repair"}
	for _, u := range lost {
		p.Images = append(p.Images, u.images...)
		if len(p.Details) < maxDetails {
			p.Details = append(p.Details, u.Chain.String())
		}
	}
	if r.o.Repair {
		running, err := r.Maker.Reset(ctx)
		switch {
		case err != nil:
			p.Remedy = "the images cannot be unpacked again: " + err.Error()
		case len(running) > 0:
			p.Containers, p.Remedy = running, inUse(running)
		default:
			p.Repaired, p.Remedy = true, "all images are unpacked again when they are used"
		}
	}
	r.problem(p)
	return nil
}
