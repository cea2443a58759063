package api

import (
	"context"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	types "github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/disk"
	"hezi/internal/engine"
	"hezi/internal/image"
	"hezi/internal/image/check"
	"hezi/internal/image/lists"
	"hezi/internal/image/registry"
	hostnet "hezi/internal/network"
)

// Filters as the API sends them: key to set of values.
type Filters = map[string]map[string]bool

// Containers is what the handlers of /containers need. *engine.Engine has it.
type Containers interface {
	Create(ctx context.Context, r engine.CreateRequest) (container.CreateResponse, error)
	Start(ctx context.Context, ref string) error
	Stop(ctx context.Context, ref string, o engine.StopOptions) error
	Restart(ctx context.Context, ref string, o engine.StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Remove(ctx context.Context, ref string, o engine.RemoveOptions) error
	Rename(ctx context.Context, ref, name string) error
	Resize(ctx context.Context, ref string, height, width uint16) error
}

// ContainerViews is what the reading handlers of /containers need. *engine.Engine has it.
type ContainerViews interface {
	List(ctx context.Context, o engine.ListOptions) ([]container.Summary, error)
	Inspect(ctx context.Context, ref string, size bool) (container.InspectResponse, error)
	Top(ctx context.Context, ref string, psArgs []string) (container.TopResponse, error)
	PruneContainers(ctx context.Context, o disk.PruneOptions) (container.PruneReport, error)
}

// Streams is what the handlers need that hand a connection over. *engine.Engine has it.
type Streams interface {
	Attach(ctx context.Context, ref string, o engine.AttachOptions, hijack engine.Hijack) error
	// Logs writes to the hijacked connection; raw says whether the stream is
	// raw (a terminal) or framed, for the Content-Type, before hijack is called.
	Logs(ctx context.Context, ref string, o engine.LogsOptions, hijack func(raw bool) engine.Hijack) error
	// Wait hands the connection over; with a nil hijack (a client on a relayed
	// connection) it blocks and returns the answer.
	Wait(ctx context.Context, ref string, cond container.WaitCondition, hijack engine.Hijack) (container.WaitResponse, error)
	// Terminal says whether the container has one.
	Terminal(ctx context.Context, ref string) (bool, error)
}

// Execs is what the handlers of /exec need. *engine.Engine has it.
type Execs interface {
	ExecCreate(ctx context.Context, ref string, c engine.ExecConfig) (id string, err error)
	ExecStart(ctx context.Context, id string, o engine.ExecStartOptions, hijack engine.Hijack) error
	ExecInspect(ctx context.Context, id string) (container.ExecInspectResponse, error)
	ExecResize(ctx context.Context, id string, height, width uint16) error
	ExecKill(ctx context.Context, id, signal string) error
	ExecList(ctx context.Context, ref string) ([]engine.ExecSummary, error)
}

// Mounts is what changes the mounts of containers. engine.Mounts has it.
type Mounts interface {
	Change(ctx context.Context, ref string, add []mount.Mount, remove []string) error
}

// Snapshots is what keeps containers' files and brings them back. engine.Snapshots has it.
type Snapshots interface {
	Snapshot(ctx context.Context, ref, name string) (engine.Snapshot, error)
	Snapshots(ctx context.Context, ref string) ([]engine.Snapshot, error)
	RemoveSnapshot(ctx context.Context, ref, name string) error
	Rollback(ctx context.Context, ref, name string) error
}

// Images is what the handlers of /images need. *image.Service has it.
type Images interface {
	Pull(ctx context.Context, r image.PullRequest, p image.Progress) error
	Import(ctx context.Context, r image.ImportRequest, p image.Progress) error
	Load(ctx context.Context, r io.Reader, platforms []ocispec.Platform, quiet bool, p image.Progress) error
	List(ctx context.Context, o image.ListOptions) ([]imagetypes.Summary, error)
	Inspect(ctx context.Context, ref string, platform *ocispec.Platform, manifests bool) (imagetypes.InspectResponse, error)
	History(ctx context.Context, ref string, platform *ocispec.Platform) ([]imagetypes.HistoryResponseItem, error)
	Attestations(ctx context.Context, ref string, o image.AttestationOptions) ([]imagetypes.AttestationStatement, error)
	Tag(ctx context.Context, source, target string) error
	Remove(ctx context.Context, ref string, o image.RemoveOptions) ([]imagetypes.DeleteResponse, error)
}

// Registries is what asks registries without storing anything. *registry.Client has it.
type Registries interface {
	Login(ctx context.Context, auth types.AuthConfig) (types.AuthResponse, error)
	Search(ctx context.Context, r registry.SearchRequest) ([]types.SearchResult, error)
	Inspect(ctx context.Context, name string, o registry.RepositoryOptions) (types.DistributionInspect, error)
	Test(ctx context.Context, name string, auth *types.AuthConfig) (registry.Report, error)
}

// Upkeep is what keeps the images' disk in order. image.Upkeep has it.
type Upkeep interface {
	Prune(ctx context.Context, o disk.PruneOptions) (imagetypes.PruneReport, error)
	LastUsed(ctx context.Context) (map[string]time.Time, error)
	Check(ctx context.Context, r image.CheckRequest, tell func(check.Event)) (*check.Report, error)
}

// Lists is what `hezi manifest` needs. lists.Lists has it.
type Lists interface {
	Fetch(ctx context.Context, name string, all bool, o registry.RepositoryOptions) (lists.Manifest, error)
	Put(ctx context.Context, q lists.Request, o registry.RepositoryOptions) (lists.Pushed, error)
}

// Volumes is what the handlers of /volumes need. *volume.Store has it.
type Volumes interface {
	Create(ctx context.Context, r volume.CreateRequest) (volume.Volume, error)
	Get(ctx context.Context, name string) (volume.Volume, error)
	List(ctx context.Context, f Filters) ([]volume.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	Prune(ctx context.Context, o disk.PruneOptions) (volume.PruneReport, error)
}

// Networks is what the handlers of /networks need. *network.Controller has it.
type Networks interface {
	List(ctx context.Context, f Filters) ([]network.Inspect, error)
	Detail(ctx context.Context, ref string) (hostnet.Detail, error)
	EgressOf(container string, labels map[string]string) *hostnet.Egress
	Create(ctx context.Context, q network.CreateRequest) (id string, err error)
	Remove(ctx context.Context, ref string) error
	Prune(ctx context.Context, o disk.PruneOptions) (network.PruneReport, error)
}

// Attachments is what connects containers to networks and publishes their ports.
// engine.Attachments has it.
type Attachments interface {
	Connect(ctx context.Context, container, network string, s *network.EndpointSettings) error
	Disconnect(ctx context.Context, container, network string, force bool) error
	Publish(ctx context.Context, container string, add, remove network.PortMap) (network.PortMap, error)
	SetEgress(ctx context.Context, container, policy string) error
}

// System is what /info, /version and /events need. The daemon implements it.
type System interface {
	Info(ctx context.Context) (system.Info, error)
	Version(ctx context.Context) (system.VersionResponse, error)
	// Events sends what happened since and what happens until to out, until ctx
	// ends; a zero time is no bound.
	Events(ctx context.Context, since, until time.Time, f Filters, out func(events.Message) error) error
}
