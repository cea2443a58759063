package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	registrytypes "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/check"
)

// Upkeep keeps a Service's disk in order.
type Upkeep struct{ *Service }

// CheckRequest is POST /system/check.
type CheckRequest struct {
	check.Options
	// Auths are the client's credentials by registry, for what is fetched again.
	Auths map[string]registrytypes.AuthConfig
}

// Check verifies what images consist of; see package check. One runs at a time.
func (s Upkeep) Check(ctx context.Context, r CheckRequest, tell func(check.Event)) (*check.Report, error) {
	if !s.checking.TryLock() {
		return nil, errdefs.ErrConflict.WithMessage("a check is already running")
	}
	defer s.checking.Unlock()
	store := &check.Store{
		Root: s.root, Namespace: namespace, Snapshotter: s.form.name, UpperLabel: upperLabel, Context: s.context, View: s.bolt.View,
		Names: s.names, Blobs: s.blobs, Layers: s.base, Trees: s.trees, Sweep: &s.sweeper, Log: s.log,
		Databases: s.databases, Maker: &maker{s: s, Fetcher: check.Fetcher{
			Registries: s.registries, Blobs: s.blobs, Sweep: &s.sweeper, Auths: r.Auths, Put: s.put, Adopt: s.adopt,
		}},
	}
	report, err := store.Run(ctx, r.Options, tell)
	if r.Repair {
		s.changed() // what was broken is read anew
		s.collectLater()
	}
	return report, err
}

// maker makes anew what a check found bad.
type maker struct {
	check.Fetcher
	s Upkeep
}

var _ check.Maker = (*maker)(nil)

// put replaces the file of a blob that the metadata knows.
func (s *depot) put(path string, d ocispec.Descriptor) error {
	dir := filepath.Join(s.root, "content", "blobs", d.Digest.Algorithm().String())
	if err := os.Chmod(path, 0o444); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	place := filepath.Join(dir, d.Digest.Encoded())
	if st, err := os.Lstat(place); err == nil && !st.Mode().IsRegular() {
		if err := os.RemoveAll(place); err != nil {
			return err
		}
	}
	if err := os.Rename(path, place); err != nil {
		return err
	}
	return syncFolder(dir)
}

// adopt stores a blob that the metadata does not know, and what it refers to.
func (s Upkeep) adopt(ctx context.Context, path string, d ocispec.Descriptor) error {
	place := filepath.Join(s.root, "content", "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
	if err := s.sweeper.Throw(place); err != nil { // a bad one would be taken for it
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lctx, release, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := content.WriteBlob(lctx, s.blobs, "repair-"+uuid.NewString(), f, d); err != nil {
		return fmt.Errorf("store blob %s: %w", d.Digest, err)
	}
	return s.tie(lctx, d, func(ocispec.Descriptor) bool { return true }, 0)
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Unpack stages a layer as a pull does.
func (m *maker) Unpack(ctx context.Context, cl check.Layer) (dir string, discard func(), err error) {
	s := m.s
	l := layer{blob: cl.Blob, diffID: cl.DiffID, chain: cl.Chain, parent: cl.Parent}
	lctx, release, err := s.lease(ctx)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	alone := builder{s: &s.depot, layer: l, slots: make(chan struct{}, 1)}
	st, err := alone.fromStore(lctx, nil, unseen(l))
	if err == nil {
		err = st.save(lctx)
	}
	if err != nil {
		return "", nil, layerError(l, err)
	}
	return st.path, func() {
		st.abort(lctx)
		release()
	}, nil
}

// handOut is how long after its folders were handed out a container may not
// run yet.
const handOut = 10 * time.Second

// gate lets layers be exchanged while no container is about to mount them.
type gate struct {
	mu   sync.RWMutex // held while folders are handed out, and for writing while one is exchanged
	last sync.Map     // digest.Digest of a top layer -> time.Time
}

func (g *gate) pass(top digest.Digest) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	g.last.Store(top, time.Now())
}

// Exchange gives a layer's place to dir, whose own gets the old files.
func (m *maker) Exchange(ctx context.Context, chain digest.Digest, dir string) (running []string, err error) {
	s := m.s
	info, err := s.layers.Stat(ctx, chain.String())
	if err != nil {
		return nil, err
	}
	place := info.Labels[upperLabel]
	for {
		running, wait, err := m.tryExchange(ctx, chain, dir, place)
		if wait == 0 {
			return running, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (m *maker) tryExchange(ctx context.Context, chain digest.Digest, dir, place string) (running []string, wait time.Duration, err error) {
	tops, ids := m.above(ctx, chain)
	m.s.gate.mu.Lock()
	defer m.s.gate.mu.Unlock()
	if running := m.runningOf(ctx, ids); len(running) > 0 {
		return running, 0, nil
	}
	for _, top := range tops {
		if at, ok := m.s.gate.last.Load(top); ok {
			wait = max(wait, handOut-time.Since(at.(time.Time)))
		}
	}
	if wait > 0 {
		return nil, wait, nil
	}
	err = m.s.form.placeLayer(dir, place)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(place), 0o700); err == nil {
			err = os.Rename(dir, place)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	return nil, 0, errors.Join(syncFolder(filepath.Dir(place)), syncFolder(filepath.Dir(filepath.Dir(place))))
}

// above are the images that have a layer, and the tops of their chains.
func (m *maker) above(ctx context.Context, chain digest.Digest) (tops, ids []digest.Digest) {
	c, err := m.s.catalog(ctx)
	if err != nil {
		return nil, nil
	}
	for id, same := range c.byDigest {
		in, err := m.s.read(ctx, c, same[0].Target)
		if err != nil { // broken: it may have any layer
			ids = append(ids, id)
			continue
		}
		for _, v := range in.variants {
			if chain == "" || slices.Contains(v.chains, chain) {
				ids = append(ids, id)
				if len(v.chains) > 0 {
					tops = append(tops, v.chains[len(v.chains)-1])
				}
			}
		}
	}
	return tops, ids
}

func (m *maker) runningOf(ctx context.Context, ids []digest.Digest) (list []string) {
	for _, id := range ids {
		running, _ := m.s.inUse(ctx, id)
		list = append(list, running...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Running are the containers that run on a layer.
func (m *maker) Running(ctx context.Context, chain digest.Digest) []string {
	_, ids := m.above(ctx, chain)
	return m.runningOf(ctx, ids)
}

// Reset forgets all layers, whose records are lost, and their folders.
func (m *maker) Reset(ctx context.Context) (running []string, err error) {
	s := m.s
	s.change.Lock()
	defer s.change.Unlock()
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	if running := m.Running(ctx, ""); len(running) > 0 {
		return running, nil
	}
	if s.form.whole { // and containers' own files are among the folders
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s/metadata.db says which folders belong to which container: put it back from a copy; or, if no container's files are needed, stop hezid, move %[1]s away, and start it", filepath.Join(s.root, s.form.dir)))
	}
	left, err := check.LayerNames(s.bolt.View, namespace, s.form.name)
	if err != nil {
		return nil, err
	}
	for n := len(left) + 1; len(left) > 0 && len(left) < n; { // those above others first
		n = len(left)
		left = slices.DeleteFunc(left, func(name string) bool {
			err := s.layers.Remove(ctx, name)
			return err == nil || errdefs.IsNotFound(err)
		})
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("%d layers cannot be forgotten: %w", len(left), errdefs.ErrInternal)
	}
	dirs, err := os.ReadDir(filepath.Join(s.root, s.form.dir, "snapshots"))
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		if err := s.sweeper.Throw(filepath.Join(s.root, s.form.dir, "snapshots", d.Name())); err != nil {
			return nil, err
		}
	}
	s.rootfs.Clear()
	return nil, s.collect(ctx)
}
