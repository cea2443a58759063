package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// Client speaks to one keeper. Each call has a connection of its own; the
// methods may be called from any goroutine, and outlive the keeper's
// replacement: the holder keeps the listening socket, so that a call waits.
//
// A client that EnsureRunning returned starts a keeper when keeper and holder
// are gone, both killed; Subscribe's connected is where what ran is found again.
type Client struct {
	socket string
	revive *reviver // nil: it starts none
	regain func(ctx context.Context, id string) bool
}

// OnLost has f called when the keeper does not know a container: f has it adopt
// the container and returns true, and the request is made again, or false.
func (c *Client) OnLost(f func(ctx context.Context, id string) bool) { c.regain = f }

// SocketPath is where the keeper of execRoot listens.
func SocketPath(execRoot string) string {
	return filepath.Join(execRoot, "keeper", "keeper.sock")
}

// NewClient does not check that a keeper runs; see EnsureRunning.
func NewClient(execRoot string) *Client { return &Client{socket: SocketPath(execRoot)} }

func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil && c.revive != nil && nobodyListens(err) {
		if err = c.revive.start(); err == nil {
			conn, err = d.DialContext(ctx, "unix", c.socket)
		}
	}
	if err != nil {
		return nil, Classed(errdefs.ErrUnavailable, fmt.Sprintf("hezi-keeper does not answer on %s: %v; is it running?", c.socket, err))
	}
	return conn.(*net.UnixConn), nil
}

// open sends a request and returns the connection with the answer's body.
func (c *Client) open(ctx context.Context, op Op, body, answer any, fds ...int) (*net.UnixConn, error) {
	conn, err := c.openOnce(ctx, op, body, answer, fds...)
	for deadline := time.Now().Add(patience); errdefs.IsAborted(err) && time.Now().Before(deadline); {
		select { // it was replaced, or is about to be, and has done nothing
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		conn, err = c.openOnce(ctx, op, body, answer, fds...)
	}
	if errdefs.IsAborted(err) {
		err = Classed(errdefs.ErrUnavailable, err.Error())
	}
	if c.regain == nil || !errdefs.IsNotFound(err) {
		return conn, err
	}
	if id := containerOf(body); id != "" && c.regain(ctx, id) {
		return c.openOnce(ctx, op, body, answer, fds...)
	}
	return nil, err
}

// containerOf is the container that a request is about.
func containerOf(body any) string {
	switch b := body.(type) {
	case Target:
		return b.ContainerID
	case ExecRequest:
		return b.ContainerID
	case TakeOver:
		if b.Attach != nil {
			return b.Attach.ContainerID
		}
	}
	return ""
}

func (c *Client) openOnce(ctx context.Context, op Op, body, answer any, fds ...int) (*net.UnixConn, error) {
	var tail []byte
	if r, ok := body.(interface{ apart() (any, []byte) }); ok {
		body, tail = r.apart()
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = func() error {
		if err := writeFrame(conn, Request{Op: op, Body: raw, Tail: len(tail)}, tail, fds); err != nil {
			return err
		}
		var r Response
		got, err := ReadFrame(conn, &r)
		if n, ok := answer.(*NameSockets); ok && err == nil && r.Error == nil {
			n.FDs = got
			return nil
		}
		CloseFDs(got)
		if err != nil {
			return err
		}
		if r.Error != nil {
			return r.Error.Err()
		}
		if answer != nil {
			return json.Unmarshal(r.Body, answer)
		}
		return nil
	}()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return conn, nil
	}
	conn.Close()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) { // unix(7): the request was not read
		return nil, Classed(errdefs.ErrAborted, fmt.Sprintf("hezi-keeper went away before it was asked to %s: %v", op, err))
	}
	var ne net.Error
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &ne) {
		return nil, Classed(errdefs.ErrUnavailable, fmt.Sprintf("hezi-keeper went away while it was asked to %s: %v", op, err))
	}
	return nil, err
}

func (c *Client) call(ctx context.Context, op Op, body, answer any, fds ...int) error {
	conn, err := c.open(ctx, op, body, answer, fds...)
	if err != nil {
		return err
	}
	return conn.Close()
}

// patience is how long a request that may be made twice is made again while the
// keeper is started anew, which takes milliseconds.
const patience = 10 * time.Second

// again is call for what may be asked twice: a keeper that dies before it
// answers is asked again once it is back.
func (c *Client) again(ctx context.Context, op Op, body, answer any) error {
	for deadline := time.Now().Add(patience); ; {
		err := c.call(ctx, op, body, answer)
		if err == nil || !errors.Is(err, errdefs.ErrUnavailable) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Info describes the keeper.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var i Info
	err := c.call(ctx, OpInfo, struct{}{}, &i)
	return i, err
}

// Start starts a container. A failed step is a *box.Error.
func (c *Client) Start(ctx context.Context, r StartRequest) (Started, error) {
	var s Started
	op := OpStart
	if r.Launch != nil {
		op = OpLaunch
	}
	r.NameSockets = len(r.Names)
	err := c.call(ctx, op, r, &s, slices.Concat(r.Ports, r.Names)...)
	return s, err
}

// Ports changes which sockets are kept for a running container. Error: NotFound.
func (c *Client) Ports(ctx context.Context, r PortsRequest) error {
	return c.call(ctx, OpPorts, r, nil, r.Ports...)
}

// NameSockets are copies of the sockets that StartRequest.Names had, for the
// caller to close; none if the container was started without.
func (c *Client) NameSockets(ctx context.Context, containerID string) ([]int, error) {
	var n NameSockets
	err := c.again(ctx, OpNames, Target{ContainerID: containerID}, &n)
	return n.FDs, err
}

// PortSockets are copies of the sockets that are kept of StartRequest.Ports and
// PortsRequest, for the caller to close.
func (c *Client) PortSockets(ctx context.Context, containerID string) ([]int, error) {
	var n NameSockets
	err := c.again(ctx, OpHeld, Target{ContainerID: containerID}, &n)
	return n.FDs, err
}

// KeepNames has copies kept of the sockets by which a container that runs asks for
// names, as of StartRequest.Names.
func (c *Client) KeepNames(ctx context.Context, containerID string, fds []int) error {
	return c.call(ctx, OpNames, Target{ContainerID: containerID}, nil, fds...)
}

// Prepare makes the namespaces of a container that Start is to follow for. A
// failed step is a *box.Error. A second one of the same container ends the first.
func (c *Client) Prepare(ctx context.Context, r PrepareRequest) (Prepared, error) {
	var p Prepared
	err := c.again(ctx, OpPrepare, r, &p)
	return p, err
}

// Exec starts a process in a running container. A failed step is a *box.Error.
func (c *Client) Exec(ctx context.Context, r ExecRequest) (Started, error) {
	var s Started
	err := c.call(ctx, OpExec, r, &s)
	return s, err
}

// ExecFor is Exec with r.Client attached to it, in one request. On success conn is
// the keeper's, or relayed; on error it stays the caller's, and the process may run.
func (c *Client) ExecFor(ctx context.Context, r ExecRequest, conn net.Conn) (s Started, err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		a := r.Client
		r.Client, r.AwaitAttach = nil, true
		if s, err = c.Exec(ctx, r); err == nil {
			err = c.Attach(ctx, *a, conn, r.Buffered)
		}
		return s, err
	}
	if err = c.sendConn(ctx, OpExec, r, &s, u); err == nil {
		err = s.Unattached.Err()
	}
	if err == nil {
		err = u.Close()
	}
	return s, err
}

// Attach hands conn to the keeper, with what was already read from it. On
// success conn is closed or owned by a relay; on error it stays the caller's.
func (c *Client) Attach(ctx context.Context, r AttachRequest, conn net.Conn, buffered []byte) error {
	return c.takeOver(ctx, OpAttach, TakeOver{Attach: &r, Buffered: buffered}, conn)
}

// Logs hands conn to the keeper, which writes the log there; see Attach.
func (c *Client) Logs(ctx context.Context, r LogsRequest, conn net.Conn, buffered []byte) error {
	return c.takeOver(ctx, OpLogs, TakeOver{Logs: &r, Buffered: buffered}, conn)
}

// Wait hands conn to the keeper, which writes the wait's body there; see Attach.
func (c *Client) Wait(ctx context.Context, r WaitRequest, conn net.Conn, buffered []byte) error {
	return c.takeOver(ctx, OpWait, TakeOver{Wait: &r, Buffered: buffered}, conn)
}

// WaitExit blocks until the condition holds. The keeper's death does not end
// it: it asks again.
func (c *Client) WaitExit(ctx context.Context, id string, cond WaitCondition) (box.Exit, error) {
	for {
		var e box.Exit
		err := c.call(ctx, OpWaitExit, Target{ContainerID: id, Condition: cond}, &e)
		if err == nil || !errors.Is(err, errdefs.ErrUnavailable) {
			return e, err
		}
		select {
		case <-ctx.Done():
			return e, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Signal sends sig to a container's first process, or to an exec.
func (c *Client) Signal(ctx context.Context, id, execID string, sig int) error {
	return c.again(ctx, OpSignal, Target{ContainerID: id, ExecID: execID, Signal: sig}, nil)
}

// KillAll kills everything in the container's cgroup.
func (c *Client) KillAll(ctx context.Context, id string) error {
	return c.again(ctx, OpKillAll, Target{ContainerID: id}, nil)
}

// Pause freezes the container's cgroup.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.again(ctx, OpPause, Target{ContainerID: id}, nil)
}

// Resume thaws it.
func (c *Client) Resume(ctx context.Context, id string) error {
	return c.again(ctx, OpResume, Target{ContainerID: id}, nil)
}

// Update changes limits of a container that runs.
func (c *Client) Update(ctx context.Context, r UpdateRequest) error {
	return c.again(ctx, OpUpdate, r, nil)
}

// Resize sets a terminal's size in character cells.
func (c *Client) Resize(ctx context.Context, id, execID string, h, w uint16) error {
	return c.again(ctx, OpResize, Target{ContainerID: id, ExecID: execID, Height: h, Width: w}, nil)
}

// List returns all containers the keeper knows, exited ones until Forget.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	var l []Status
	err := c.again(ctx, OpList, struct{}{}, &l)
	return l, err
}

// Forget acknowledges a container's exit and removes its cgroup. With removed,
// the waiters for removal are answered.
func (c *Client) Forget(ctx context.Context, id string, removed bool) error {
	return c.again(ctx, OpForget, Target{ContainerID: id, Removed: removed}, nil)
}

// Remove is Forget of a container that is removed: the waiters for that are
// answered, and folder, which has its log, is deleted once no client reads it.
func (c *Client) Remove(ctx context.Context, id, folder string) error {
	return c.again(ctx, OpForget, Target{ContainerID: id, Removed: true, Folder: folder}, nil)
}

// ForgetExec acknowledges an exec's exit.
func (c *Client) ForgetExec(ctx context.Context, id, execID string) error {
	return c.again(ctx, OpForgetExec, Target{ContainerID: id, ExecID: execID}, nil)
}

// CloseStdin ends a process's standard input.
func (c *Client) CloseStdin(ctx context.Context, id, execID string) error {
	return c.again(ctx, OpCloseStdin, Target{ContainerID: id, ExecID: execID}, nil)
}

// Upgrade replaces the keeper by binary in place; containers, attached
// clients and open terminals stay. On error the old one serves on.
func (c *Client) Upgrade(ctx context.Context, binary string) error {
	before, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if err := c.call(ctx, OpUpgrade, Target{Binary: binary}, nil); err != nil {
		return err
	}
	// The answer came before the exec; the next one comes from the new image.
	for {
		after, err := c.Info(ctx)
		switch {
		case err == nil && after.Generation > before.Generation:
			return nil
		case err == nil && after.UpgradeError != "":
			return Classed(errdefs.ErrFailedPrecondition, after.UpgradeError)
		case err == nil && after.PID != before.PID:
			return Classed(errdefs.ErrFailedPrecondition, fmt.Sprintf("the new keeper %s ended while it took over, and its holder started keeper %s again: the containers run on, clients that were attached have lost their connection", binary, after.Version))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Adopt gives the keeper a container that runs and that it may have lost. One
// that it has is left alone; NotFound says that its process is gone.
func (c *Client) Adopt(ctx context.Context, r AdoptRequest) error {
	return c.again(ctx, OpAdopt, r, nil)
}

// Sweep ends what runs of containers that neither the keeper nor keep knows,
// and returns their ids.
func (c *Client) Sweep(ctx context.Context, keep []string) (swept []string, err error) {
	err = c.again(ctx, OpSweep, SweepRequest{Keep: keep}, &swept)
	return swept, err
}

// Stop ends keeper and holder, for good; it fails while containers run.
func (c *Client) Stop(ctx context.Context) error {
	if c.revive == nil {
		return c.call(ctx, OpStop, struct{}{}, nil)
	}
	c.revive.stop(true)
	err := c.call(ctx, OpStop, struct{}{}, nil)
	if err != nil && !running(c.socket) { // there is none to stop
		return nil
	}
	if err != nil {
		c.revive.stop(false)
	}
	return err
}

// Subscribe calls f for each event until ctx ends, and connects again when
// the keeper is replaced. connected is called at each connection, f for each
// event, both on the calling goroutine. Unacknowledged exits are repeated at
// each connection.
func (c *Client) Subscribe(ctx context.Context, connected func(), f func(Event)) error {
	for {
		err := c.subscribeOnce(ctx, connected, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, errdefs.ErrUnavailable) && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			var ne net.Error
			if !errors.As(err, &ne) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Client) subscribeOnce(ctx context.Context, connected func(), f func(Event)) error {
	conn, err := c.open(ctx, OpSubscribe, struct{}{}, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	connected()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	for {
		var e Event
		fds, err := ReadFrame(conn, &e)
		CloseFDs(fds)
		if err != nil {
			return err
		}
		f(e)
	}
}
