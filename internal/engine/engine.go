package engine

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	apinet "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
	"hezi/internal/engine/attach"
	"hezi/internal/engine/cdi"
	"hezi/internal/engine/execs"
	"hezi/internal/engine/hooks"
	"hezi/internal/engine/labels"
	"hezi/internal/engine/names"
	"hezi/internal/engine/oci"
	"hezi/internal/engine/proc"
	"hezi/internal/engine/spec"
	"hezi/internal/engine/users"
	"hezi/internal/engine/walls"
	"hezi/internal/image"
	"hezi/internal/keeper"
	"hezi/internal/network"
	"hezi/internal/snapshot"
	hostvolume "hezi/internal/volume"
)

const bucket = "containers"

// database is what the engine needs of the store. *store.DB has it.
type database interface {
	Put(bucket, key string, v any) error
	Delete(bucket, key string) error
	Each(bucket string, f func(key string, value []byte) error) error
}

// images is what the engine needs of the image room. *image.Service has it.
type images interface {
	Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (*image.Image, error)
	RootFS(ctx context.Context, img *image.Image) (image.RootFS, error)
	Pin(ctx context.Context, img *image.Image, containerID string) error
	Unpin(ctx context.Context, containerID string) error
	// Touch notes that an image is used now.
	Touch(id digest.Digest)
}

// volumes is what the engine needs of the volume room. *volume.Store has it.
type volumes interface {
	Create(ctx context.Context, r volume.CreateRequest) (volume.Volume, error)
	Get(ctx context.Context, name string) (volume.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	Mount(ctx context.Context, name string, u hostvolume.Use) (volume.Volume, error)
	Unmount(containerID string, names []string)
	Hold(containerID string, names []string)
	Settle()
}

// networks is what the engine needs of the network room. *network.Controller has it.
type networks interface {
	Join(ctx context.Context, r network.SandboxRequest) (*network.Sandbox, error)
	Adopt(ctx context.Context, r network.SandboxRequest, s *network.Sandbox) (*network.Sandbox, error)
	Connect(ctx context.Context, containerID string, r network.EndpointRequest) (*network.Sandbox, error)
	Disconnect(ctx context.Context, containerID, ref string) (*network.Sandbox, error)
	Announce(action events.Action, networkID, containerID string)
	Republish(ctx context.Context, containerID string, add, remove apinet.PortMap) (*network.Sandbox, error)
	NameSockets(containerID string) []int
	Renamed(containerID string, list []network.EndpointRequest)
	SetEgress(containerID, policy string) error
	MayRestrain(policy string) error
	Resolve(ref string) (id, name string, err error)
	Release(containerID string)
	NetworkID(name string) string
	Gateways() []netip.Addr
}

// publisher is what the engine needs of the events room. *events.Broker has it.
type publisher interface{ Publish(events.Message) }

// Options of an Engine. All rooms are needed.
type Options struct {
	DataRoot, ExecRoot string
	CgroupParent       string // of containers, below the root of each hierarchy
	// Systemd has containers start in scopes of systemd's, which Scopes makes. Those
	// that run in one have it changed and ended whatever Systemd is.
	Systemd  bool
	Scopes   scopes
	Store    database
	Images   images
	Layers   snapshot.Driver
	Volumes  volumes
	Networks networks
	Keeper   *keeper.Client
	Prober   prober
	Events   publisher
	Shipper  shipper // nil: lines of remote log drivers stay in their files
	Log      *slog.Logger
	Walls    walls.Walls
	CDI      *cdi.Registry
	Runtimes *oci.Registry // nil: only the engine's own
	Defaults Defaults
	// Users gives containers ids on the host; nil: /etc/subuid says which.
	Users *users.Pool
}

// Defaults are what the daemon's configuration says for containers that do not.
type Defaults struct {
	LogDriver   string            // "": json-file
	LogOptions  map[string]string // max-size, max-file, compress
	ShmSize     int64             // bytes; 0: 64 MiB
	Init        bool
	DNS         []netip.Addr
	DNSSearch   []string
	DNSOptions  []string
	ResolvConf  string       // the host's; "": /etc/resolv.conf
	HostGateway []netip.Addr // nil: the bridge's
	Restarts    Restarts
	IPCMode     container.IpcMode // "": private
	// CgroupParent is --cgroup-parent of containers that do not say it.
	CgroupParent string
	// Userns is --userns of containers that do not say it; Remap the users of those
	// for which neither does (userns-remap), nil for the host's.
	Userns container.UsernsMode
	Remap  *box.Users
	// LayerSize bounds the disk space of containers that do not say theirs, in bytes; 0: nothing does.
	LayerSize int64
}

// record is a container as it is stored (see store.go). A record is never
// changed, only replaced.
type record struct {
	ID, Name   string
	Created    time.Time
	ImageID    string
	Manifest   ocispec.Descriptor // of the image's platform
	Platform   string             // "linux"
	Layers     []digest.Digest    // chain ids of the image, lowest first
	Config     *container.Config  // merged with the image's
	HostConfig *container.HostConfig
	Points     []spec.Point
	Anonymous  []string // volumes that go with the container
	MAC        string   // asked for, of records of versions with one network
	Networks   attach.Wanted
	// Users are the ids of its user namespace; nil: the host's. UsersOf is the
	// container whose user namespace it joins, and with it these ids; "": none.
	Users   *box.Users `json:",omitempty"`
	UsersOf string     `json:",omitempty"`
	// Labels are its SELinux labels.
	Labels labels.Pair `json:",omitzero"`
	// Chain are its own layers, and Snapshots what rollback can bring back.
	Chain     snapshot.Chain `json:",omitempty"`
	Snapshots []savepoint    `json:",omitempty"`
	// Driver is the storage driver that keeps its file system; "": overlay2.
	Driver string `json:",omitempty"`

	State    State
	Exit     int // code
	OOM      bool
	Thaw     bool        // it is paused for a moment, by this engine
	Changing *remounting `json:",omitempty"` // while its mounts are changed
	Error    string
	Started  time.Time // zero: never
	Finished time.Time
	Restarts int
	Stopped  bool              // by a user: no restart policy starts it again
	Stopping *stopping         // while a stop is under way
	Health   *container.Health // of the last run, at its end; nil without checks

	// vital is the entry's: what is known of the health while it runs.
	vital *atomic.Pointer[vital]

	// Of the running container:
	PID     int
	Cgroups map[string]string // controller to directory; "" on cgroup v2
	Pipes   [2]uint64         // inodes of its output pipes
	Hooks   *hooks.After      `json:",omitempty"` // of the present run's devices
	Net     *network.Sandbox  // nil in the host's or another container's
}

// running says whether the container has a process.
func (r *record) running() bool {
	return r.State == container.StateRunning || r.State == container.StatePaused
}

// entry is one container: its latest record, which readers take without
// waiting, and the lock that serialises its changes. The lock is never held
// while a container is waited for.
type entry struct {
	work   chan struct{} // its one place is taken for the length of a change
	latest atomic.Pointer[record]
	saving sync.Mutex // see store.go

	views  atomic.Int32 // readers of its layers that hold no lock, see snapshots.go
	untidy atomic.Bool

	relinking atomic.Bool // somebody waits to write its links

	unstored atomic.Pointer[error] // why its end is not stored yet; nil: it is, or it runs

	healing sync.Mutex // held while vital is changed; below work
	vital   atomic.Pointer[vital]

	// Guarded by work:
	gone     bool          // removed
	over     chan struct{} // closed when the run's exit is stored; nil without a run
	hooks    chan struct{} // closed when the hooks of the last end are over; nil: there were none
	restart  *time.Timer   // the restart that is due
	backoff  time.Duration // before the next restart
	removing bool          // a removal acknowledges the exit to the keeper
	again    int           // restarts under way: --rm does not remove the container
	short    int           // runs in a row that were short
}

// records is what the engine's parts share: the rooms, and all containers.
type records struct {
	o      Options
	names  *names.Index
	ctx    context.Context // ends with the engine; for work that no request waits for
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines of the engine's own
	// support finds out, once, which limits this host can enforce.
	support  func() (cgroup.Support, error)
	linking  atomic.Bool // a container has, or had, links on the default bridge
	renaming sync.Mutex  // held while containers with links are given other names

	mu    sync.RWMutex // guards boxes, never held across work
	boxes map[string]*entry
}

// Engine has all containers: their life here, their streams, their files and
// the processes beside their first one in its parts.
type Engine struct {
	*records
	*Execs
	*Streams
	*Files
	*Limits
	launcher launcher
	checks   *checks
}

// launcher makes what a start needs.
type launcher struct{ *records }

// New reads the records of all containers. Restore must follow.
func New(o Options) (*Engine, error) {
	e := newEngine(o)
	return e, e.loadAll()
}

func newEngine(o Options) *Engine {
	r := &records{o: o, names: names.New(), boxes: map[string]*entry{}, support: sync.OnceValues(cgroup.Probe)}
	if r.o.Users == nil {
		r.o.Users = users.NewPool(nil)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	e := &Engine{records: r, Execs: &Execs{records: r, index: execs.New(filepath.Join(o.ExecRoot, "execs"))},
		Streams: &Streams{r}, Files: &Files{r}, Limits: newLimits(r), launcher: launcher{r}}
	e.checks = newChecks(e)
	return e
}

// find gives the entry of a container for a client: settled.
func (e *records) find(ref string) (*entry, error) {
	c, err := e.entry(ref)
	if err != nil {
		return nil, err
	}
	e.settle(c)
	if c.latest.Load().State == container.StateRemoving {
		return nil, notFound(ref)
	}
	return c, nil
}

// settleWait bounds how long a client waits for an exit to be stored.
const settleWait = time.Second

// settle waits for exits that the keeper has answered and that are not stored
// yet: whoever has seen a container end finds it ended.
func (e *records) settle(list ...*entry) {
	deadline := time.Now().Add(settleWait)
	for _, c := range list {
		r := c.latest.Load()
		for next := r; next.running() && next.PID == r.PID && r.PID != 0 && proc.Exited(r.PID); next = c.latest.Load() {
			if e.ctx.Err() != nil || time.Now().After(deadline) {
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// entry finds a container as it is known now.
func (e *records) entry(ref string) (*entry, error) {
	id, err := e.names.Resolve(ref)
	if err != nil {
		return nil, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if c := e.boxes[id]; c != nil {
		return c, nil
	}
	return nil, notFound(ref)
}

func notFound(ref string) error { return errdefs.ErrNotFound.WithMessage("No such container: " + ref) }

// entries are all containers, in no order.
func (e *records) entries() []*entry {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return slices.Collect(maps.Values(e.boxes))
}

// all are the latest records of all containers, in no order.
func (e *records) all() []*record {
	list := e.entries()
	records := make([]*record, len(list))
	for i, c := range list {
		records[i] = c.latest.Load()
	}
	return records
}

// settled is all for a client.
func (e *records) settled() []*record {
	e.settle(e.entries()...)
	return slices.DeleteFunc(e.all(), func(r *record) bool { return r.State == container.StateRemoving })
}

// lock finds a container and waits for its turn to be changed.
func (e *records) lock(ctx context.Context, ref string) (*entry, func(), error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, nil, err
	}
	return e.lockEntry(ctx, c, ref)
}

// lockKnown is lock for the engine itself.
func (e *records) lockKnown(ctx context.Context, id string) (*entry, func(), error) {
	c, err := e.entry(id)
	if err != nil {
		return nil, nil, err
	}
	return e.lockEntry(ctx, c, id)
}

func (e *records) lockEntry(ctx context.Context, c *entry, ref string) (*entry, func(), error) {
	select {
	case c.work <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if c.gone {
		<-c.work
		return nil, nil, notFound(ref)
	}
	return c, func() { <-c.work }, nil
}

// change gives a locked container another record. It is stored before anybody sees it.
func (e *records) change(c *entry, f func(*record)) (*record, error) {
	r := *c.latest.Load()
	from := r.State
	f(&r)
	if r.State != from {
		if err := transition(from, r.State); err != nil {
			return nil, err
		}
	}
	if err := e.save(c, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

func (e *records) publish(r *record, action events.Action, pairs ...string) {
	attr := map[string]string{}
	maps.Copy(attr, r.Config.Labels)
	attr["image"], attr["name"] = r.Config.Image, r.Name // whatever the labels are called
	for i := 0; i+1 < len(pairs); i += 2 {
		attr[pairs[i]] = pairs[i+1]
	}
	e.o.Events.Publish(events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: r.ID, Attributes: attr}})
}
