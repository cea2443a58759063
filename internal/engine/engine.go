package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/engine/spec"
	"hezi/internal/image"
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
	Pin(ctx context.Context, img *image.Image, containerID string) error
	Unpin(ctx context.Context, containerID string) error
}

// volumes is what the engine needs of the volume room. *volume.Store has it.
type volumes interface {
	Create(ctx context.Context, r volume.CreateRequest) (volume.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
}

// publisher is what the engine needs of the events room. *events.Broker has it.
type publisher interface{ Publish(events.Message) }

// Options of an Engine. All rooms are needed.
type Options struct {
	DataRoot, ExecRoot string
	Store              database
	Images             images
	Volumes            volumes
	Events             publisher
	Log                *slog.Logger
}

// record is a container as it is stored: in the database, or, with AutoRemove,
// in a file on the exec root. A record is never changed, only replaced.
type record struct {
	ID, Name   string
	Created    time.Time
	ImageID    string
	Config     *container.Config // merged with the image's
	HostConfig *container.HostConfig
	Points     []spec.Point
	Anonymous  []string // volumes that go with the container
	State      State
	Exit       int
	Error      string
}

// entry is one container: its latest record, which readers take without waiting,
// and the lock that serialises its work.
type entry struct {
	work   chan struct{} // its one place is taken for the length of a verb
	latest atomic.Pointer[record]
}

// Engine has all containers.
type Engine struct {
	o     Options
	names *names

	mu    sync.RWMutex // guards boxes, never held across work
	boxes map[string]*entry
}

// New reads the records of all containers.
func New(o Options) (*Engine, error) {
	e := &Engine{o: o, names: newNames(), boxes: map[string]*entry{}}
	if err := os.MkdirAll(e.transient(), 0o700); err != nil {
		return nil, fmt.Errorf("the folder of --rm containers: %w", err)
	}
	if err := o.Store.Each(bucket, func(_ string, b []byte) error { return e.load(b) }); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(e.transient(), "*.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			err = e.load(b)
		}
		if err != nil {
			return nil, fmt.Errorf("the record %s: %w", f, err)
		}
	}
	return e, nil
}

func (e *Engine) transient() string { return filepath.Join(e.o.ExecRoot, "containers") }

func (e *Engine) load(b []byte) error {
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("the record of a container: %w", err)
	}
	if _, err := e.names.reserve(r.ID, r.Name); err != nil {
		return err
	}
	e.add(r)
	return nil
}

func (e *Engine) add(r *record) {
	b := &entry{work: make(chan struct{}, 1)}
	b.latest.Store(r)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.boxes[r.ID] = b
}

// save stores a record; it is durable at return, except with AutoRemove.
func (e *Engine) save(r *record) error {
	if !r.HostConfig.AutoRemove {
		return e.o.Store.Put(bucket, r.ID, r)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(e.transient(), r.ID+".json")
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("store the container: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return errors.Join(fmt.Errorf("store the container: %w", err), os.Remove(path+".new"))
	}
	return nil
}

func (e *Engine) publish(r *record, action events.Action) {
	attr := map[string]string{"image": r.Config.Image, "name": r.Name}
	for k, v := range r.Config.Labels {
		attr[k] = v
	}
	e.o.Events.Publish(events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: r.ID, Attributes: attr}})
}
