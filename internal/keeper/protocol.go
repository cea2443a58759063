package keeper

import (
	"encoding/json"
	"time"

	"hezi/internal/box"
	"hezi/internal/runtimes"
	"hezi/internal/timeline"
)

// ProtocolVersion is raised when a message changes so that an older keeper
// would misread it. hezid asks a keeper of an older build to replace itself
// by execve (Client.Upgrade) before it uses newer messages.
const ProtocolVersion = 5

// LogConfig says where a container's output is written. Only file formats are
// written by the keeper; Driver "none" writes nothing.
type LogConfig struct {
	Driver   string // "json-file", "local" or "none"
	Path     string // host path of the current file
	MaxSize  int64  // bytes of one file before it is rotated; 0: unlimited
	MaxFiles int    // files kept, the current one included; at least 1
	Compress bool
	Attrs    map[string]string // "attrs" of each json-file record
	// Buffer, in bytes, bounds what waits for a slow disk: what is more is dropped.
	// 0: nothing is dropped, the container waits.
	Buffer int64 `json:",omitempty"`
}

// StartRequest starts a container's first process.
type StartRequest struct {
	Spec      box.Spec
	Log       LogConfig
	StdinOnce bool // close stdin when the first attached client ends its side
	// Ports are bound sockets, at most MaxPorts, of which copies are kept until the
	// container ends: its ports stay taken whatever becomes of the engine.
	Ports []int `json:"-"`
	// Names are the sockets by which the container asks for names, none or all; copies
	// are kept too, and NameSockets gives them out again.
	Names []int `json:"-"`
	// NameSockets is how many of the message's descriptors, the last, are of Names.
	NameSockets int `json:",omitempty"`
	// Launch has another OCI runtime start it; nil: this keeper does itself.
	Launch *runtimes.Launch `json:",omitempty"`
	// Timeline asks for Started.Phases.
	Timeline bool `json:",omitempty"`
}

// NameSockets answers the request for a container's StartRequest.Names, or Ports.
type NameSockets struct {
	FDs []int `json:"-"` // the caller's
}

// MaxPorts leaves room for a process's other descriptors on one message.
const MaxPorts = MaxFiles - 8

// PortsRequest changes which sockets are kept for a running container: those that
// StartRequest brought and Keep does not name are closed. It answers nothing.
type PortsRequest struct {
	ContainerID string
	Keep        []string // local addresses with the protocol, as 0.0.0.0:80/tcp
	Ports       []int    `json:"-"` // further sockets
}

// PrepareRequest makes the namespaces of a box with users of its own, for its
// network namespace to be filled before StartRequest comes for it (see
// box.Runtime.Prepare).
type PrepareRequest struct {
	ContainerID string
	Users       *box.Users
	Namespaces  box.Namespaces
	Hooked      bool `json:",omitempty"` // the box will have hooks
}

// Prepared answers PrepareRequest.
type Prepared struct {
	PID int    // whose namespaces they are
	Net uint64 // inode of its network namespace: the number may be another process's by now
}

// Started answers Start and ExecStart.
type Started struct {
	PID       int // in the host's pid namespace
	StartedAt time.Time
	// CgroupPaths: controller to directory on v1; "" to directory on v2.
	CgroupPaths map[string]string
	// Pipes are the inodes of standard output's and error's pipe, 0 without.
	Pipes [2]uint64
	// Unattached is why an exec's client is not attached; its process runs.
	Unattached *WireError `json:",omitempty"`
	// Phases of the start, where they were asked for.
	Phases []timeline.Phase `json:",omitempty"`
}

// AdoptRequest names a container that runs, as Started told it: a keeper that
// has lost it together with its holder takes it up again.
type AdoptRequest struct {
	ContainerID string
	PID         int
	StartedAt   time.Time
	CgroupPaths map[string]string
	Pipes       [2]uint64
	HostPID     bool
	Paused      bool
	Log         LogConfig
}

// UpdateRequest changes the limits of a container that runs: those that are set
// in Resources. When the kernel refuses one, all stay as they were.
type UpdateRequest struct {
	ContainerID string
	Resources   box.Resources
}

// SweepRequest ends what runs in the cgroups of containers that the keeper does
// not hold: of all but Keep.
type SweepRequest struct{ Keep []string }

// ExecRequest starts another process in a running container.
type ExecRequest struct {
	ContainerID string
	ExecID      string
	Process     box.Process
	StdinOnce   bool
	DetachKeys  []byte
	// KillOnDisconnect ends the process when the attached client goes away.
	KillOnDisconnect bool
	// AwaitAttach holds the streams until an Attach for ExecID has come.
	AwaitAttach bool
	// Client is attached at once where the request carries its connection, from which
	// Buffered was read already.
	Client   *AttachRequest `json:",omitempty"`
	Buffered []byte         `json:",omitempty"`
}

// AttachRequest joins a client's connection to a process. ExecID is "" for
// the container's first process. The keeper speaks the raw stream for a
// terminal and moby's 8-byte framed stream (api/pkg/stdcopy) without one.
type AttachRequest struct {
	ContainerID string
	ExecID      string
	Stdin       bool
	Stdout      bool
	Stderr      bool
	Stream      bool // false: only what Logs asks for, then the end
	Logs        bool // send what is in the log first
	DetachKeys  []byte
	// Starter marks the client that starts the container (attach before
	// start): it exerts back-pressure where there is no log to catch up from.
	Starter bool
	// NextStart: the container is not running yet; join at its next start.
	NextStart bool
	Terminal  bool
	// ExitFrame ends a framed stream with the exit code of the process: a frame
	// of StreamExit with the code as a big-endian uint32.
	ExitFrame bool
}

// StreamExit is the first byte of a frame that holds an exit code. It is
// Hezi's own, beside stdcopy's 0 to 3.
const StreamExit = 4

// WaitCondition of a WaitRequest, as the API has it.
type WaitCondition string

const (
	WaitNotRunning WaitCondition = "not-running"
	WaitNextExit   WaitCondition = "next-exit"
	WaitRemoved    WaitCondition = "removed"
)

// WaitRequest hands over a client's connection on which the body of
// POST /containers/{id}/wait is written ({"StatusCode":N}) and then closed.
// Headers were already sent.
type WaitRequest struct {
	ContainerID string
	Condition   WaitCondition
}

// LogsRequest hands over a client's connection for followed logs. Headers were
// already sent; the body ends when the connection is closed.
type LogsRequest struct {
	ContainerID            string
	Log                    LogConfig
	Stdout, Stderr, Follow bool
	Timestamps             bool
	Details                bool
	Terminal               bool // raw stream instead of frames
	Tail                   int  // lines; -1: all
	Since, Until           time.Time
	Grep                   string `json:",omitempty"` // RE2; lines without a match are left out
}

// Status is what the keeper knows of one container. It survives hezid, and
// the keeper's own replacement or death.
type Status struct {
	ID        string
	PID       int // 0 once it has exited
	StartedAt time.Time
	Paused    bool
	Ports     int       // how many sockets of StartRequest are kept
	Exit      *box.Exit // set once it has exited and is not yet forgotten
	Execs     []ExecStatus
	// As in Started.
	CgroupPaths map[string]string
	Pipes       [2]uint64
}

// ExecStatus is one exec of a container.
type ExecStatus struct {
	ID   string
	PID  int
	Exit *box.Exit
}

// EventType of an Event.
type EventType string

const (
	EventExit     EventType = "exit" // a container's first process
	EventExecExit EventType = "exec_exit"
	EventOOM      EventType = "oom"
	EventDetach   EventType = "detach" // a client left by the detach keys
)

// Event is sent to every subscriber. Exit and ExecExit are repeated to a
// subscriber that (re)connects until they are acknowledged by Forget or
// ForgetExec.
type Event struct {
	Type        EventType
	ContainerID string
	ExecID      string
	Exit        *box.Exit
	// Of EventOOM: the container's first process, and whether one of the
	// container's processes was killed; without the killer, they wait.
	PID    int  `json:",omitempty"`
	Killed bool `json:",omitempty"`
}

// Info describes the running keeper.
type Info struct {
	Version         string // the build's version
	ProtocolVersion int
	PID             int
	HolderPID       int
	Containers      int
	// Generation counts the keeper's replacements in place; UpgradeError says
	// why the last one was refused.
	Generation   int
	UpgradeError string
}

// Extra lets a message carry what only newer builds know.
type Extra map[string]json.RawMessage
