package keeper

import (
	"encoding/json"
	"errors"

	"github.com/containerd/errdefs"

	"hezi/internal/box"
)

// Op names a request.
type Op string

// The closed list of requests.
const (
	OpInfo       Op = "info"
	OpStart      Op = "start"
	OpLaunch     Op = "launch" // start by another runtime, of which older keepers know nothing
	OpExec       Op = "exec"
	OpAttach     Op = "attach"
	OpLogs       Op = "logs"
	OpWait       Op = "wait"
	OpWaitExit   Op = "wait-exit"
	OpSignal     Op = "signal"
	OpKillAll    Op = "kill-all"
	OpPause      Op = "pause"
	OpResume     Op = "resume"
	OpResize     Op = "resize"
	OpList       Op = "list"
	OpSubscribe  Op = "subscribe"
	OpForget     Op = "forget"
	OpForgetExec Op = "forget-exec"
	OpCloseStdin Op = "close-stdin"
	OpAdopt      Op = "adopt"
	OpSweep      Op = "sweep"
	OpUpdate     Op = "update"
	OpPrepare    Op = "prepare"
	OpPorts      Op = "ports"
	OpNames      Op = "names" // the sockets of StartRequest.Names, to have or, on the request, to keep
	OpHeld       Op = "held"  // the sockets of StartRequest.Ports, to have
	OpUpgrade    Op = "upgrade"
	OpStop       Op = "stop"
)

// Request is one message to the keeper.
type Request struct {
	Op   Op
	Body json.RawMessage
	// Tail is how many bytes follow the message: the process's seccomp filter, which
	// would be most of it, and dear as JSON.
	Tail int `json:",omitempty"`
}

// apart is a request without its process's seccomp filter, and that.
func (r StartRequest) apart() (any, []byte) {
	filter := r.Spec.Process.Seccomp
	r.Spec.Process.Seccomp = nil
	return r, filter
}

func (r ExecRequest) apart() (any, []byte) {
	filter := r.Process.Seccomp
	r.Process.Seccomp = nil
	return r, filter
}

// Response is the keeper's answer.
type Response struct {
	Error *WireError `json:",omitempty"`
	Body  json.RawMessage
}

// Target is the body of the requests about one process.
type Target struct {
	ContainerID   string
	ExecID        string
	Signal        int
	Height, Width uint16
	Removed       bool
	Condition     WaitCondition
	Binary        string
	Folder        string
}

// TakeOver is the body of the requests that hand over a connection: exactly
// one of its requests is set. Buffered are bytes already read from it.
type TakeOver struct {
	Attach   *AttachRequest `json:",omitempty"`
	Logs     *LogsRequest   `json:",omitempty"`
	Wait     *WaitRequest   `json:",omitempty"`
	Buffered []byte         `json:",omitempty"`
}

// WireError is an error with its class, as errdefs has it.
type WireError struct {
	Class   string
	Message string
	Box     *box.Error `json:",omitempty"`
}

type classed struct {
	msg   string
	class error
}

func (e *classed) Error() string { return e.msg }
func (e *classed) Unwrap() error { return e.class }

func classes() map[string]error {
	return map[string]error{
		"not-found": errdefs.ErrNotFound, "conflict": errdefs.ErrConflict,
		"precondition": errdefs.ErrFailedPrecondition, "invalid": errdefs.ErrInvalidArgument,
		"unavailable": errdefs.ErrUnavailable, "exists": errdefs.ErrAlreadyExists, "aborted": errdefs.ErrAborted,
	}
}

// NewWireError carries err over the socket.
func NewWireError(err error) *WireError {
	w := &WireError{Class: "internal", Message: err.Error()}
	for name, class := range classes() {
		if errors.Is(err, class) {
			w.Class = name
		}
	}
	var b *box.Error
	if errors.As(err, &b) {
		w.Box = b
	}
	return w
}

// Err is the error on the receiving side: a *box.Error where it was one.
func (w *WireError) Err() error {
	if w == nil {
		return nil
	}
	if w.Box != nil {
		return w.Box
	}
	class, ok := classes()[w.Class]
	if !ok {
		class = errdefs.ErrInternal
	}
	return &classed{w.Message, class}
}

// Classed is an error that reads as msg and is of class (an errdefs error).
func Classed(class error, msg string) error { return &classed{msg, class} }
