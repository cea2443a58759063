// Package sweep finds what is in the folders of images and belongs to nothing
// that the databases know: a killed engine, a power cut or a full disk left it
// between two steps. It is removed before the engine takes requests.
//
//	DATAROOT
//	├── images.db               what is known
//	├── content/blobs/ALG/HEX   known blobs
//	├── content/ingest/HASH     known downloads; HASH is of the download's name
//	├── layers/metadata.db      the snapshotter's own records
//	├── layers/snapshots/ID     folders of its records
//	└── trash/                  on its way out
package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"hezi/internal/disk"
)

// Store is where images are.
type Store struct {
	Root        string // the data root
	View        func(func(*bolt.Tx) error) error
	Layers      snapshots.Snapshotter // the one with the folders, not its view by the metadata
	Dir         string                // where these are, below Root; "": layers
	Snapshotter string                // its name in the metadata
	UpperLabel  string                // of its snapshots: where their files are
	// Delete removes the folder of a snapshot; nil: it has nothing but files.
	Delete func(folder string) error
	Log    *slog.Logger

	mu    sync.Mutex // guards using
	using []string   // names of temporary files in the trash
}

// known is what the metadata says that there is.
type known struct {
	blobs     map[string]bool // digests
	ingests   map[string]bool // names of folders
	snapshots map[string]bool // names that the snapshotter has for them
}

// Orphans belong to nothing. Paths are absolute.
type Orphans struct {
	Blobs, Downloads, Folders []string
	Snapshots                 []string // names in the snapshotter, those above others first
	// Lost are layers that the metadata has and the snapshotter does not: its
	// database is damaged or was removed. Then no layer is taken for an orphan.
	Lost []string
}

// Empty says whether there are none.
func (o *Orphans) Empty() bool {
	return len(o.Blobs)+len(o.Downloads)+len(o.Folders)+len(o.Snapshots) == 0
}

// Keep leaves only orphans of which nothing has changed since before.
func (o *Orphans) Keep(before time.Time) {
	young := func(path string) bool {
		var st unix.Stat_t
		return unix.Lstat(path, &st) != nil || time.Unix(st.Ctim.Unix()).After(before)
	}
	o.Blobs, o.Downloads, o.Folders = slices.DeleteFunc(o.Blobs, young), slices.DeleteFunc(o.Downloads, young), slices.DeleteFunc(o.Folders, young)
	o.Snapshots = nil
}

// Find looks for orphans. Nothing may be pulled or loaded meanwhile: what is
// just being made has no record yet.
func (s *Store) Find(ctx context.Context) (*Orphans, error) {
	k, err := s.known()
	if err != nil {
		return nil, err
	}
	o := &Orphans{}
	if err := s.content(k, o); err != nil {
		return nil, err
	}
	return o, s.layers(ctx, k, o)
}

func (s *Store) known() (*known, error) {
	k := &known{blobs: map[string]bool{}, ingests: map[string]bool{}, snapshots: map[string]bool{}}
	// The schema is drawn in core/metadata/buckets.go of containerd.
	err := s.View(func(tx *bolt.Tx) error {
		return each(tx.Bucket([]byte("v1")), func(_ string, namespace *bolt.Bucket) error {
			content := namespace.Bucket([]byte("content"))
			if content != nil {
				if err := each(content.Bucket([]byte("blob")), func(dgst string, _ *bolt.Bucket) error {
					k.blobs[dgst] = true
					return nil
				}); err != nil {
					return err
				}
				if err := each(content.Bucket([]byte("ingests")), func(_ string, b *bolt.Bucket) error {
					k.ingests[digest.FromBytes(b.Get([]byte("ref"))).Encoded()] = true
					return nil
				}); err != nil {
					return err
				}
			}
			layers := namespace.Bucket([]byte("snapshots"))
			if layers == nil {
				return nil
			}
			return each(layers.Bucket([]byte(s.Snapshotter)), func(_ string, b *bolt.Bucket) error {
				k.snapshots[string(b.Get([]byte("name")))] = true
				return nil
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read what images there are: %w", err)
	}
	return k, nil
}

// each calls f with every bucket within b, which may be nil.
func each(b *bolt.Bucket, f func(name string, b *bolt.Bucket) error) error {
	if b == nil {
		return nil
	}
	return b.ForEachBucket(func(name []byte) error { return f(string(name), b.Bucket(name)) })
}

func (s *Store) content(k *known, o *Orphans) error {
	algorithms, err := names(filepath.Join(s.Root, "content", "blobs"))
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		dir := filepath.Join(s.Root, "content", "blobs", a)
		blobs, err := names(dir)
		if err != nil {
			return err
		}
		for _, b := range blobs {
			if !k.blobs[a+":"+b] {
				o.Blobs = append(o.Blobs, filepath.Join(dir, b))
			}
		}
	}
	dir := filepath.Join(s.Root, "content", "ingest")
	ingests, err := names(dir)
	if err != nil {
		return err
	}
	for _, i := range ingests {
		if !k.ingests[i] || spoiled(filepath.Join(dir, i)) {
			o.Downloads = append(o.Downloads, filepath.Join(dir, i))
		}
	}
	return nil
}

// spoiled says whether a power cut has emptied the small files beside a
// download, which nobody syncs: then it can neither be gone on with nor be
// collected.
func spoiled(dir string) bool {
	ref, err := os.ReadFile(filepath.Join(dir, "ref"))
	if err != nil || digest.FromBytes(ref).Encoded() != filepath.Base(dir) {
		return true
	}
	for _, name := range []string{"startedat", "updatedat"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || new(time.Time).UnmarshalText(text) != nil {
			return true
		}
	}
	return false
}

func (s *Store) layers(ctx context.Context, k *known, o *Orphans) error {
	missing := make(map[string]bool, len(k.snapshots))
	for name := range k.snapshots {
		missing[name] = true
	}
	folders := map[string]bool{} // of known snapshots
	parents := map[string]string{}
	err := s.Layers.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if !k.snapshots[i.Name] {
			parents[i.Name] = i.Parent // its folder goes, too
			return nil
		}
		folders[filepath.Base(filepath.Dir(i.Labels[s.UpperLabel]))] = true
		delete(missing, i.Name)
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) { // a new database has no layers
		return fmt.Errorf("read what layers there are: %w", err)
	}
	for name := range missing {
		o.Lost = append(o.Lost, name)
	}
	if len(o.Lost) > 0 {
		slices.Sort(o.Lost)
		return nil
	}
	o.Snapshots = topFirst(parents)
	dir := filepath.Join(s.Root, cmp.Or(s.Dir, "layers"), "snapshots")
	list, err := names(dir)
	if err != nil {
		return err
	}
	for _, n := range list {
		if !folders[n] {
			o.Folders = append(o.Folders, filepath.Join(dir, n))
		}
	}
	return nil
}

// topFirst orders snapshots so that each comes before its parent.
func topFirst(parents map[string]string) []string {
	depth := func(name string) (n int) {
		for p, ok := parents[name]; ok && n <= len(parents); p, ok = parents[p] {
			n++
		}
		return n
	}
	list := make([]string, 0, len(parents))
	depths := make(map[string]int, len(parents))
	for name := range parents {
		list = append(list, name)
		depths[name] = depth(name)
	}
	slices.SortFunc(list, func(a, b string) int {
		if n := depths[b] - depths[a]; n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	return list
}

func names(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for what belongs to nothing: %w", err)
	}
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = e.Name()
	}
	return out, nil
}

func (s *Store) trash() string { return filepath.Join(s.Root, "trash") }

// Discard takes orphans away at once; EmptyTrash deletes them.
func (s *Store) Discard(ctx context.Context, o *Orphans) error {
	if o.Empty() {
		return nil
	}
	s.Log.Warn("removing what belongs to no image: hezid ended while it was made or removed",
		"blobs", len(o.Blobs), "downloads", len(o.Downloads), "layers", len(o.Snapshots)+len(o.Folders))
	if err := os.MkdirAll(s.trash(), 0o700); err != nil {
		return fmt.Errorf("remove what belongs to no image: %w", err)
	}
	for _, path := range slices.Concat(o.Blobs, o.Downloads, o.Folders) {
		if err := s.Throw(path); err != nil {
			return err
		}
	}
	for _, name := range o.Snapshots {
		if err := s.Layers.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove the layer %s, which belongs to no image: %w", name, err)
		}
	}
	return nil
}

// Throw moves a file or folder to the trash; one that is not there is none.
func (s *Store) Throw(path string) error {
	if err := os.MkdirAll(s.trash(), 0o700); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	err := disk.Detach(path) // a disk that a killed engine left there would move along, and stay
	if err == nil {
		err = os.Rename(path, filepath.Join(s.trash(), uuid.NewString()))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.EXDEV): // somebody mounted a disk there
		err = os.RemoveAll(path)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// Temporary makes a file that nobody needs after a crash. Its maker removes it.
func (s *Store) Temporary(name string) (*os.File, error) {
	if err := os.MkdirAll(s.trash(), 0o700); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.CreateTemp(s.trash(), "*-"+name)
	if err == nil {
		s.using = append(s.using, filepath.Base(f.Name()))
	}
	return f, err
}

// unused is what of the trash nobody uses.
func (s *Store) unused() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := names(s.trash())
	s.using = slices.DeleteFunc(s.using, func(n string) bool { return !slices.Contains(list, n) })
	return slices.DeleteFunc(list, func(n string) bool { return slices.Contains(s.using, n) }), err
}

// EmptyTrash deletes what was thrown away, by this engine or one before.
func (s *Store) EmptyTrash(ctx context.Context) {
	list, err := s.unused()
	for _, n := range list {
		if ctx.Err() != nil {
			return
		}
		err = errors.Join(err, s.delete(filepath.Join(s.trash(), n)))
	}
	if err != nil {
		s.Log.Warn("what was thrown away cannot be deleted; it is tried again at the next start of hezid", "folder", s.trash(), "error", err)
	}
}

func (s *Store) delete(path string) error {
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() {
		return os.RemoveAll(path)
	}
	if s.Delete != nil {
		return s.Delete(path)
	}
	if err := disk.Detach(path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// HasContent says whether there are blobs or layers at all, known or not.
func (s *Store) HasContent() (bool, error) {
	for _, dir := range []string{"content/blobs/sha256", "layers/snapshots", "layers-erofs/snapshots", "layers-btrfs/snapshots", "layers-vfs/snapshots"} {
		list, err := names(filepath.Join(s.Root, dir))
		if err != nil || len(list) > 0 {
			return len(list) > 0, err
		}
	}
	return false, nil
}
