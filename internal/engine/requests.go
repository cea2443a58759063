package engine

import (
	"net"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/engine/execs"
	"hezi/internal/keeper"
)

// CreateRequest is POST /containers/create, decoded and of the newest API version.
type CreateRequest struct {
	Name       string
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	Platform   *ocispec.Platform
	// What older clients mean: read-only binds are so at their top only, and on
	// cgroup v1 the host's cgroup namespace where none is named.
	ReadOnlyTop, HostCgroups bool
}

// Hijack takes the client's connection out of HTTP: it sends the response's
// headers and returns the connection with the bytes that net/http had already
// read. It is called once, after everything that can fail with a status has
// passed; nothing but the stream may be written afterwards.
type Hijack func() (conn net.Conn, buffered []byte, err error)

// AttachOptions of POST /containers/{id}/attach.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Stream, Logs          bool
	DetachKeys            string // Docker's syntax: "ctrl-p,ctrl-q"; "" is the default
}

// LogsOptions of GET /containers/{id}/logs.
type LogsOptions struct {
	Stdout, Stderr, Follow bool
	Timestamps, Details    bool
	Tail                   int // lines; -1: all
	Since, Until           time.Time
	Grep                   string // RE2; "": all lines
}

// StopOptions of stop and restart. A nil Timeout is the container's own; -1 waits for ever.
type StopOptions struct {
	Signal  string
	Timeout *int // seconds
}

// RemoveOptions of DELETE /containers/{id}.
type RemoveOptions struct {
	Force, Volumes, Link bool
}

// ListOptions of GET /containers/json.
type ListOptions struct {
	All, Size bool
	Limit     int
	Filters   map[string]map[string]bool
}

// ExecConfig of POST /containers/{id}/exec.
type ExecConfig = execs.Config

// StreamExit is the first byte of the frame with the exit code that
// ExecStartOptions.ExitFrame asks for: 4 bytes, big-endian.
const StreamExit = keeper.StreamExit

// ExecStartOptions of POST /exec/{id}/start.
type ExecStartOptions struct {
	Detach                      bool
	Tty                         bool // the client reads a raw stream, not frames
	ConsoleHeight, ConsoleWidth uint
	ExitFrame                   bool // end a framed stream with the exit code
}
