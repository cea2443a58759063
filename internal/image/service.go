// Package image keeps images: it pulls, pushes, saves, loads, imports, lists,
// names and removes them, and gives the engine their root file systems.
//
// Content and metadata are containerd's; everything is one containerd
// namespace. Layers are committed snapshots; the writable layers of containers
// are not here (see internal/snapshot).
//
//	DATAROOT
//	├── images.db   names, labels, leases, which blob refers to which (bbolt)
//	├── content/    blobs by digest: indexes, manifests, configs, layers
//	├── layers/     one directory for each chain of layers
//	└── trash/      what is being deleted
//
// A name in images.db is what keeps content and layers; a lease keeps what is
// on its way, and for a day what a pull had downloaded when it was cut off. Two kinds of names are not the user's:
//
//	hezi-dangling@DIGEST   its last name went to another image: shown as <none>
//	hezi-pinned@DIGEST     removed while containers use it: not shown
//
// Pins are in memory. The engine pins what its containers use when they are
// made and again when hezid starts. Pin adds itself and then looks whether the
// image is still there; Remove takes the name away and then looks for pins: so
// one of them always sees the other, without a lock between a start and rmi.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"hezi/internal/image/check"
	"hezi/internal/image/registry"
	"hezi/internal/image/space"
	"hezi/internal/image/sweep"
	"hezi/internal/version"
)

const (
	namespace = "hezi"
	leaseTime = 24 * time.Hour
)

// Options of a Service.
type Options struct {
	Root       string // the data root
	Registries registry.Config
	// InUse says which containers use an image; nil means none do. It is
	// called without locks of the engine held.
	InUse InUse
	// Release gives up the disk space that is held back for clean-up, and says
	// whether there was any; nil: there is none.
	Release func() bool
	// Users says who uses which image, of all containers; nil means nobody does.
	Users func() []Use
	// Publish announces what happened to an image; nil drops it.
	Publish func(typ, action, id string, attributes map[string]string)
	Log     *slog.Logger // nil: slog's default
	// Databases of the engine's other rooms, which a check looks into, too.
	Databases map[string]func(func(*bolt.Tx) error) error
	// Driver is the storage driver; "": overlay2.
	Driver string
}

// depot is the content and the layers, and what protects them while they
// come. It knows no names.
type depot struct {
	root    string
	form    form
	db      *metadata.DB
	blobs   content.Store
	layers  snapshots.Snapshotter
	base    snapshots.Snapshotter // what layers wraps
	leases  leases.Manager
	log     *slog.Logger
	flights flights // layers that several pulls want
	flush   *flusher
	trees   *check.Trees
	sizes   sync.Map // digest.Digest of a layer's chain -> int64, bytes unpacked
}

// index is the names of what is stored.
type index struct {
	depot
	names images.Store

	// change is held while names change and while garbage is collected.
	// A start never takes it.
	change sync.Mutex
	cache  cache
}

// Service is the open image room.
type Service struct {
	index
	bolt     *bolt.DB
	cleaning cleaning
	sweeper  sweep.Store
	space    space.Store
	inUse    InUse
	users    func() []Use
	announce func(typ, action, id string, attributes map[string]string)

	registries *registry.Client

	pins         pins
	rootfs       sync.Map // digest.Digest of a top layer -> RootFS
	gate         gate
	helloChecked atomic.Bool // the built-in image is this build's
	collecting   atomic.Bool // files of containers are about to be deleted
	checking     sync.Mutex  // held while a check runs
	pruning      sync.Mutex  // held while images are pruned
	uses         *uses
	databases    map[string]func(func(*bolt.Tx) error) error

	background sync.WaitGroup     // of what ends by itself
	lasting    sync.WaitGroup     // of what ends with the service
	stop       context.CancelFunc // ends background work
	life       context.Context
}

// Open opens or creates the images below o.Root.
func Open(ctx context.Context, o Options) (_ *Service, err error) {
	s := &Service{inUse: o.InUse, users: o.Users, announce: o.Publish}
	s.root, s.log = o.Root, o.Log
	s.cleaning.release = o.Release
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.inUse == nil {
		s.inUse = func(context.Context, digest.Digest) (running, stopped []string) { return nil, nil }
	}
	if s.registries, err = registry.New(o.Registries, "hezi/"+version.Version, s.log); err != nil {
		return nil, err
	}
	if s.form, err = formOf(o.Driver); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Root, 0o711); err != nil {
		return nil, fmt.Errorf("make the data root: %w", err)
	}
	path := filepath.Join(o.Root, "images.db")
	if !exists(path) {
		if err := refuseHeadless(o.Root); err != nil {
			return nil, err
		}
	}
	s.bolt, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: 500 * time.Millisecond, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s is in use by another hezid: stop it first, or use another --data-root", path))
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			s.bolt.Close()
		}
	}()
	quiet()
	store, err := local.NewStore(filepath.Join(o.Root, "content"))
	if err != nil {
		return nil, fmt.Errorf("open the content store: %w", err)
	}
	folder := filepath.Join(o.Root, s.form.dir)
	layers, err := storage.NewMetaStore(filepath.Join(folder, "metadata.db"))
	if err != nil {
		return nil, fmt.Errorf("open the layers: %w", err)
	}
	recorded := layerRecords{layers, &s.cleaning}
	files, err := s.form.open(s, folder, recorded)
	if err != nil {
		return nil, fmt.Errorf("open the layers: %w", err)
	}
	s.base = measured{files, recorded}
	defer func() {
		if err != nil {
			s.base.Close()
		}
	}()
	s.db = metadata.NewDB(records{s.bolt, &s.cleaning}, store, map[string]snapshots.Snapshotter{s.form.name: s.base})
	if err = s.db.Init(ctx); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	s.blobs, s.layers = s.db.ContentStore(), s.db.Snapshotter(s.form.name)
	s.leases, s.names = metadata.NewLeaseManager(s.db), metadata.NewImageStore(s.db)
	s.trees = &check.Trees{Ready: s.form.ready, Layers: s.layers, UpperLabel: upperLabel, Context: s.context, Log: s.log}
	s.databases = map[string]func(func(*bolt.Tx) error) error{"images.db": s.bolt.View}
	maps.Copy(s.databases, o.Databases)
	s.space = space.Store{Root: o.Root, Namespace: namespace, Snapshotter: s.form.name, UpperLabel: upperLabel, View: s.bolt.View, Layers: s.base, Context: s.context}
	if s.flush, err = newFlusher(filepath.Join(folder, "snapshots")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.flush.close()
		}
	}()
	if err = s.reconcile(ctx); err != nil {
		return nil, err
	}
	if s.uses, err = openUses(&s.index, s.bolt); err != nil {
		return nil, err
	}
	dropped, err := s.dropOldLeases(ctx)
	if err != nil {
		return nil, err
	}
	s.life, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.lasting.Go(func() { s.trees.Run(s.life) })
	s.lasting.Go(func() { s.uses.keep(s.life) })
	s.inBackground(func(ctx context.Context) {
		if dropped {
			s.collectLeft(ctx)
		}
		s.sweeper.EmptyTrash(ctx)
	})
	return s, nil
}

// quiet keeps the remarks of containerd's libraries (no fs-verity here, ...)
// out of our log: what matters comes back as errors.
var quiet = sync.OnceFunc(func() {
	if err := log.SetLevel("error"); err != nil {
		panic(err) // a level that does not exist
	}
})

// collectLeft deletes what a former hezid was fetching. Nobody has pinned yet:
// what is left for containers alone stays.
func (s *Service) collectLeft(ctx context.Context) {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.collect(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("collect image content that a former hezid left", "error", err)
	}
}

// Close ends background work and closes the databases.
func (s *Service) Close() error {
	s.stop()
	s.background.Wait()
	s.lasting.Wait()
	s.registries.Close()
	s.flush.close()
	err := s.uses.write(context.Background())
	return errors.Join(err, s.base.Close(), s.bolt.Close())
}

// Reload takes a new configuration of registries; pulls under way keep theirs.
// A configuration that cannot be used is not taken.
func (s *Service) Reload(c registry.Config) {
	if err := s.registries.Reload(c); err != nil {
		s.log.Error("the configuration of registries is not taken", "error", err)
	}
}

// Registries is how they are asked.
func (s *Service) Registries() *registry.Client { return s.registries }

// context puts our containerd namespace in.
func (s *depot) context(ctx context.Context) context.Context {
	if _, ok := namespaces.Namespace(ctx); ok {
		return ctx
	}
	return namespaces.WithNamespace(ctx, namespace)
}

// lease protects all content and snapshots that are made with the returned
// context until release is called; after a crash it expires.
func (s *depot) lease(ctx context.Context, opts ...leases.Opt) (_ context.Context, release func(), _ error) {
	ctx = s.context(ctx)
	l, err := s.leases.Create(ctx, append(opts, leases.WithID(uuid.NewString()), leases.WithExpiration(leaseTime))...)
	if err != nil {
		return nil, nil, fmt.Errorf("protect new content from collection: %w", err)
	}
	return leases.WithLease(ctx, l.ID), func() {
		if err := s.leases.Delete(context.WithoutCancel(ctx), l); err != nil && !errdefs.IsNotFound(err) {
			s.log.Warn("release a lease on image content", "lease", l.ID, "error", err)
		}
	}, nil
}

// inBackground runs f until it returns or the service closes.
func (s *Service) inBackground(f func(ctx context.Context)) {
	s.background.Go(func() { f(s.life) })
}

func (s *Service) publish(action, id, name string, labels map[string]string) {
	if s.announce == nil {
		return
	}
	attributes := make(map[string]string, len(labels)+1)
	for k, v := range labels {
		attributes[k] = v
	}
	attributes["name"] = name
	s.announce("image", action, id, attributes)
}
