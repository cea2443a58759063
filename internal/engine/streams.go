package engine

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/term"
	"golang.org/x/sys/unix"

	"hezi/internal/keeper"
)

// Streams hands clients' connections to the keeper.
type Streams struct{ *records }

// Terminal says whether the container has one.
func (e *Streams) Terminal(_ context.Context, ref string) (bool, error) {
	c, err := e.find(ref)
	if err != nil {
		return false, err
	}
	return c.latest.Load().Config.Tty, nil
}

// detachKeys reads Docker's syntax; "" is ctrl-p,ctrl-q. Without a terminal
// there are none: what is piped in may have any bytes.
func detachKeys(s string, terminal bool) ([]byte, error) {
	if s == "" {
		s = "ctrl-p,ctrl-q"
	}
	keys, err := term.ToBytes(s)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid detach keys (%s): write letters, or ctrl- and a letter or one of @ ^ [ , _, with commas between", s))
	}
	if !terminal {
		return nil, nil
	}
	return keys, nil
}

// readFirst is a hijack after which the client has read the headers: some
// (Python's) lose what arrives together with them.
func readFirst(hijack Hijack) Hijack {
	return func() (net.Conn, []byte, error) {
		conn, buffered, err := hijack()
		if err == nil {
			awaitRead(conn)
		}
		return conn, buffered, err
	}
}

// awaitRead waits, not for long, until a local client has read all that it was sent.
func awaitRead(conn net.Conn) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return // closed: who uses it next says so
	}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		unread := 0
		if cerr := raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); cerr != nil || err != nil || unread == 0 {
			return
		}
	}
}

// wording is an error as a stream says it.
type wording func(error) []byte

// outputWording is that of a container's output: raw of a terminal, else in a
// frame of the error stream (moby's api/pkg/stdcopy).
func outputWording(terminal bool) wording {
	return func(err error) []byte {
		text := []byte(err.Error() + "\r\n")
		if terminal {
			return text
		}
		return append(binary.BigEndian.AppendUint32([]byte{byte(stdcopy.Stderr), 0, 0, 0}, uint32(len(text))), text...)
	}
}

// waitWording is that of a wait's answer.
func waitWording(err error) []byte {
	b, _ := json.Marshal(container.WaitResponse{StatusCode: 125, Error: &container.WaitExitError{Message: err.Error()}}) // of strings
	return b
}

// handOver takes the client's connection out of HTTP and gives it away; what
// fails then is written to the client, if there is still a way.
func (e *records) handOver(hijack Hijack, say wording, give func(net.Conn, []byte) error) error {
	conn, buffered, err := hijack()
	if err != nil {
		return err
	}
	if err := give(conn, buffered); err != nil {
		e.o.Log.Warn("a client's stream could not be handed to the keeper", "error", err)
		_, _ = conn.Write(say(err)) // the client may be gone
		return conn.Close()
	}
	return nil
}

// Attach joins the client's connection to the container; one that is not
// running yet, to its next start.
func (e *Streams) Attach(ctx context.Context, ref string, o AttachOptions, hijack Hijack) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	if o.Stream && !r.running() {
		// No start may come between the answer that the client gets and the keeper, or the
		// client misses what is said first.
		_, unlock, err := e.lockEntry(ctx, c, ref)
		if err != nil {
			return err
		}
		if r = c.latest.Load(); r.running() {
			unlock()
		} else {
			defer unlock()
		}
	}
	keys, err := detachKeys(o.DetachKeys, r.Config.Tty)
	if err != nil {
		return err
	}
	if r.State == container.StatePaused {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is paused, unpause the container before attach", r.ID))
	}
	if !o.Stream {
		return e.Logs(ctx, r.ID, LogsOptions{Stdout: o.Stdout && o.Logs, Stderr: o.Stderr && o.Logs, Tail: -1}, func(bool) Hijack { return readFirst(hijack) })
	}
	q := keeper.AttachRequest{
		ContainerID: r.ID, Stdin: o.Stdin && r.Config.OpenStdin, Stdout: o.Stdout, Stderr: o.Stderr, Stream: true, Logs: o.Logs,
		DetachKeys: keys, NextStart: !r.running(), Starter: !r.running(), Terminal: r.Config.Tty,
	}
	if r.running() || o.Logs { // the others have nothing to read before they have asked for the start
		hijack = readFirst(hijack)
	}
	err = e.handOver(hijack, outputWording(q.Terminal), func(conn net.Conn, buffered []byte) error {
		err := e.o.Keeper.Attach(ctx, q, conn, buffered)
		if errdefs.IsNotFound(err) {
			return notRunning(r)
		}
		return err
	})
	if err == nil {
		e.publish(r, events.ActionAttach)
	}
	return err
}

// Logs writes what a container has said, and with Follow what it says.
func (e *Streams) Logs(ctx context.Context, ref string, o LogsOptions, hijack func(raw bool) Hijack) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	conf, err := output{e.records}.logConfig(r)
	if err != nil {
		return err
	}
	if why := (output{e.records}).unreadable(r); why != "" {
		return errdefs.ErrNotImplemented.WithMessage("configured logging driver does not support reading: " + why)
	}
	q := keeper.LogsRequest{
		ContainerID: r.ID, Log: conf, Stdout: o.Stdout, Stderr: o.Stderr, Follow: o.Follow && (r.running() || r.State == container.StateRestarting),
		Timestamps: o.Timestamps, Details: o.Details, Terminal: r.Config.Tty, Tail: o.Tail, Since: o.Since, Until: o.Until, Grep: o.Grep,
	}
	return e.handOver(hijack(r.Config.Tty), outputWording(r.Config.Tty), func(conn net.Conn, buffered []byte) error { return e.o.Keeper.Logs(ctx, q, conn, buffered) })
}

// Wait answers when the condition holds: at once for a container that does not
// run, unless its next exit or its removal is asked for.
func (e *Streams) Wait(ctx context.Context, ref string, cond container.WaitCondition, hijack Hijack) (container.WaitResponse, error) {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return container.WaitResponse{}, err
	}
	r := c.latest.Load()
	k := keeper.WaitCondition(cond)
	switch {
	case cond == "" || cond == container.WaitConditionNotRunning:
		k = keeper.WaitNotRunning
		if r.State == container.StateRestarting {
			k = keeper.WaitNextExit
		} else if !r.running() {
			unlock()
			return answered(r, hijack)
		}
	case cond == container.WaitConditionNextExit && r.running():
		k = keeper.WaitNotRunning // the same, and no exit can slip in before it
	}
	if hijack != nil {
		defer unlock() // the keeper knows of the wait before it can be told to forget
		return container.WaitResponse{}, e.handOver(hijack, waitWording, func(conn net.Conn, buffered []byte) error {
			return e.o.Keeper.Wait(ctx, keeper.WaitRequest{ContainerID: r.ID, Condition: k}, conn, buffered)
		})
	}
	over := c.over
	unlock()
	return e.waitHere(ctx, c, k, over)
}

// waitHere waits for a client whose connection cannot be handed over.
func (e *Streams) waitHere(ctx context.Context, c *entry, cond keeper.WaitCondition, over <-chan struct{}) (container.WaitResponse, error) {
	if cond == keeper.WaitNotRunning && over != nil {
		if err := e.awaitEnd(ctx, over); err != nil {
			return container.WaitResponse{}, err
		}
		return answer(c.latest.Load()), nil
	}
	exit, err := e.o.Keeper.WaitExit(ctx, c.latest.Load().ID, cond)
	if err != nil {
		return container.WaitResponse{}, err
	}
	return container.WaitResponse{StatusCode: int64(exit.Code)}, nil
}

func answer(r *record) container.WaitResponse {
	return container.WaitResponse{StatusCode: int64(r.Exit)}
}

func answered(r *record, hijack Hijack) (container.WaitResponse, error) {
	if hijack == nil {
		return answer(r), nil
	}
	conn, _, err := hijack()
	if err != nil {
		return container.WaitResponse{}, err
	}
	defer conn.Close()
	return container.WaitResponse{}, json.NewEncoder(conn).Encode(answer(r))
}
