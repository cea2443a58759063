// Package space tells what images take on disk: each for itself, what several
// share, and what the removal of some would free. It follows the references by
// which containerd's collector keeps content, so that a plan is what happens.
package space

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"hezi/internal/disk"
)

// Store is where images are.
type Store struct {
	Root        string
	Namespace   string
	Snapshotter string // its name in the metadata
	UpperLabel  string
	View        func(func(*bolt.Tx) error) error
	Layers      snapshots.Snapshotter // as it is on disk
	Context     func(context.Context) context.Context

	mu     sync.Mutex           // guards what follows, all of which never changes
	disk   map[string]int64     // bytes on disk by digest of a blob
	usages map[string]placement // by name in the snapshotter
}

type placement struct {
	folder string // of the snapshot
	disk   int64  // bytes of its files, as it was counted at unpacking
}

// Map is everything that is kept at one moment.
type Map struct {
	Blobs  map[digest.Digest]*Blob
	Layers map[string]*Layer // by chain id
	leases []lease
}

// Blob is one of the content store.
type Blob struct {
	Size   int64 // bytes
	Disk   int64 // bytes on disk, as du counts
	blobs  []digest.Digest
	layers []string
}

// Layer is an unpacked one.
type Layer struct {
	Files  int64  // bytes on disk of its files
	Disk   int64  // with what stands beside them
	Folder string // where it is
	parent string
}

type lease struct {
	labels map[string]string
	blobs  []digest.Digest
	layers []string
}

// Set is a part of a Map.
type Set struct {
	m      *Map
	Blobs  map[digest.Digest]bool
	Layers map[string]bool
}

// Read makes the map of now. It holds no lock of anybody's.
func (s *Store) Read(ctx context.Context) (*Map, error) {
	m := &Map{Blobs: map[digest.Digest]*Blob{}, Layers: map[string]*Layer{}}
	names := map[string]string{} // chain id -> name in the snapshotter
	err := s.View(func(tx *bolt.Tx) error {
		b := bucket(tx.Bucket([]byte("v1")), s.Namespace)
		if b == nil {
			return nil
		}
		// The schema is drawn in core/metadata/buckets.go of containerd.
		if err := m.readBlobs(bucket(b, "content", "blob"), s.Snapshotter); err != nil {
			return err
		}
		err := each(bucket(b, "snapshots", s.Snapshotter), func(chain string, b *bolt.Bucket) error {
			if digest.Digest(chain).Validate() != nil {
				return nil // being unpacked
			}
			m.Layers[chain] = &Layer{parent: string(b.Get([]byte("parent")))}
			names[chain] = string(b.Get([]byte("name")))
			return nil
		})
		if err != nil {
			return err
		}
		return m.readLeases(bucket(b, "leases"), s.Snapshotter, time.Now())
	})
	if err != nil {
		return nil, fmt.Errorf("read what images take on disk: %w", err)
	}
	for d, b := range m.Blobs {
		b.Disk = s.blobDisk(d)
	}
	return m, s.measure(ctx, m, names)
}

func bucket(b *bolt.Bucket, names ...string) *bolt.Bucket {
	for _, n := range names {
		if b == nil {
			return nil
		}
		b = b.Bucket([]byte(n))
	}
	return b
}

func each(b *bolt.Bucket, f func(name string, b *bolt.Bucket) error) error {
	if b == nil {
		return nil
	}
	return b.ForEachBucket(func(k []byte) error { return f(string(k), b.Bucket(k)) })
}

const (
	refContent  = "containerd.io/gc.ref.content"
	refSnapshot = "containerd.io/gc.ref.snapshot."
	expiry      = "containerd.io/gc.expire"
)

func (m *Map) readBlobs(b *bolt.Bucket, snapshotter string) error {
	return each(b, func(name string, b *bolt.Bucket) error {
		size, _ := binary.Varint(b.Get([]byte("size")))
		blob := &Blob{Size: size}
		m.Blobs[digest.Digest(name)] = blob
		labels, err := boltutil.ReadLabels(b)
		for k, v := range labels {
			switch {
			case k == refContent || strings.HasPrefix(k, refContent+".") || strings.HasPrefix(k, refContent+"/"):
				blob.blobs = append(blob.blobs, digest.Digest(v))
			case strings.HasPrefix(k, refSnapshot+snapshotter):
				blob.layers = append(blob.layers, v)
			}
		}
		return err
	})
}

func (m *Map) readLeases(b *bolt.Bucket, snapshotter string, now time.Time) error {
	return each(b, func(_ string, b *bolt.Bucket) error {
		labels, err := boltutil.ReadLabels(b)
		if err != nil {
			return err
		}
		if at, err := time.Parse(time.RFC3339, labels[expiry]); err == nil && now.After(at) {
			return nil
		}
		l := lease{labels: labels}
		if c := bucket(b, "content"); c != nil {
			err = c.ForEach(func(k, _ []byte) error { l.blobs = append(l.blobs, digest.Digest(k)); return nil })
		}
		if c := bucket(b, "snapshots", snapshotter); c != nil && err == nil {
			err = c.ForEach(func(k, _ []byte) error { l.layers = append(l.layers, string(k)); return nil })
		}
		m.leases = append(m.leases, l)
		return err
	})
}

func (s *Store) blobDisk(d digest.Digest) int64 {
	s.mu.Lock()
	n, ok := s.disk[d.String()]
	s.mu.Unlock()
	if ok {
		return n
	}
	n = disk.Blocks(filepath.Join(s.Root, "content", "blobs", d.Algorithm().String(), d.Encoded()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disk == nil {
		s.disk = map[string]int64{}
	}
	s.disk[d.String()] = n
	return n
}

// measure finds the layers' folders and sizes.
func (s *Store) measure(ctx context.Context, m *Map, names map[string]string) error {
	ctx = s.Context(ctx)
	for chain, l := range m.Layers {
		p, err := s.placement(ctx, names[chain])
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile, or lost: system check tells
		}
		if err != nil {
			return fmt.Errorf("the size of layer %s: %w", chain, err)
		}
		l.Folder, l.Files, l.Disk = p.folder, p.disk, p.disk
		l.Disk += disk.Blocks(p.folder) + disk.Blocks(filepath.Join(p.folder, "tree.zst")) // what stands beside the files
		work, err := disk.Usage(ctx, filepath.Join(p.folder, "work"))
		if err != nil {
			return fmt.Errorf("the size of layer %s: %w", chain, err)
		}
		l.Disk += work
	}
	return nil
}

func (s *Store) placement(ctx context.Context, name string) (placement, error) {
	s.mu.Lock()
	p, ok := s.usages[name]
	s.mu.Unlock()
	if ok {
		return p, nil
	}
	u, err := s.Layers.Usage(ctx, name)
	if err != nil {
		return p, err
	}
	info, err := s.Layers.Stat(ctx, name)
	if err != nil {
		return p, err
	}
	p = placement{folder: filepath.Dir(info.Labels[s.UpperLabel]), disk: u.Size}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usages == nil {
		s.usages = map[string]placement{}
	}
	s.usages[name] = p
	return p, nil
}

// Forget drops what is remembered of sizes; it is called after a collection.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.disk)
	clear(s.usages)
}

// Reach is what blobs keep.
func (m *Map) Reach(from ...digest.Digest) *Set {
	r := &Set{m: m, Blobs: map[digest.Digest]bool{}, Layers: map[string]bool{}}
	for _, d := range from {
		r.blob(d)
	}
	return r
}

// Leased adds what leases keep whose labels pass.
func (r *Set) Leased(passes func(labels map[string]string) bool) *Set {
	for _, l := range r.m.leases {
		if !passes(l.labels) {
			continue
		}
		for _, d := range l.blobs {
			r.blob(d)
		}
		for _, c := range l.layers {
			r.layer(c)
		}
	}
	return r
}

func (r *Set) blob(d digest.Digest) {
	b := r.m.Blobs[d]
	if b == nil || r.Blobs[d] {
		return
	}
	r.Blobs[d] = true
	for _, c := range b.blobs {
		r.blob(c)
	}
	for _, c := range b.layers {
		r.layer(c)
	}
}

func (r *Set) layer(chain string) {
	for l := r.m.Layers[chain]; l != nil && !r.Layers[chain]; l = r.m.Layers[chain] {
		r.Layers[chain] = true
		chain = l.parent
	}
}

// All is everything.
func (m *Map) All() *Set {
	r := m.Reach()
	for d := range m.Blobs {
		r.Blobs[d] = true
	}
	for c := range m.Layers {
		r.Layers[c] = true
	}
	return r
}

// Size is the bytes of blobs' content and of unpacked layers.
func (r *Set) Size() (n int64) {
	for d := range r.Blobs {
		n += r.m.Blobs[d].Size
	}
	for c := range r.Layers {
		n += r.m.Layers[c].Files
	}
	return n
}

// Disk is the bytes on disk.
func (r *Set) Disk() (n int64) {
	for d := range r.Blobs {
		n += r.m.Blobs[d].Disk
	}
	for c := range r.Layers {
		n += r.m.Layers[c].Disk
	}
	return n
}

// Shared is the part of r that another of the sets has, too.
func (r *Set) Shared(counts *Counts) *Set {
	out := r.m.Reach()
	for d := range r.Blobs {
		if counts.blobs[d] > 1 {
			out.Blobs[d] = true
		}
	}
	for c := range r.Layers {
		if counts.layers[c] > 1 {
			out.Layers[c] = true
		}
	}
	return out
}

// Counts is how many of some sets have each part.
type Counts struct {
	blobs  map[digest.Digest]int
	layers map[string]int
}

// Count counts the sets' parts.
func Count(sets ...*Set) *Counts {
	c := &Counts{blobs: map[digest.Digest]int{}, layers: map[string]int{}}
	for _, s := range sets {
		for d := range s.Blobs {
			c.blobs[d]++
		}
		for l := range s.Layers {
			c.layers[l]++
		}
	}
	return c
}

// Without is the part of r that keep does not have.
func (r *Set) Without(keep *Set) *Set {
	out := r.m.Reach()
	for d := range r.Blobs {
		if !keep.Blobs[d] {
			out.Blobs[d] = true
		}
	}
	for c := range r.Layers {
		if !keep.Layers[c] {
			out.Layers[c] = true
		}
	}
	return out
}
