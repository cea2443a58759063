package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"hezi/internal/box"
	"hezi/internal/engine/execs"
	"hezi/internal/engine/proc"
	"hezi/internal/engine/spec"
	"hezi/internal/keeper"
)

// Execs are the processes beside containers' first ones.
type Execs struct {
	*records
	index *execs.Index
}

// ExecCreate prepares a process in a running container.
func (e *Execs) ExecCreate(_ context.Context, ref string, q ExecConfig) (string, error) {
	c, err := e.find(ref)
	if err != nil {
		return "", err
	}
	r := c.latest.Load()
	if err := mayExec(r); err != nil {
		return "", err
	}
	if _, err := detachKeys(q.DetachKeys, q.Tty); err != nil {
		return "", err
	}
	if len(q.Cmd) == 0 {
		return "", errdefs.ErrInvalidArgument.WithMessage("No exec command specified")
	}
	v := &execs.Execution{ID: newID(), Container: r.ID, Config: q, Made: time.Now()}
	if err := e.index.Add(v); err != nil {
		return "", err
	}
	if _, err := e.entry(r.ID); err != nil { // removed meanwhile, its execs maybe before this one
		return "", errors.Join(err, e.index.Take(r.ID))
	}
	e.publishExec(r, v, events.ActionExecCreate+": "+events.Action(strings.Join(q.Cmd, " ")))
	return v.ID, nil
}

func mayExec(r *record) error {
	switch {
	case r.State == container.StatePaused:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is paused, unpause the container before exec", r.ID))
	case r.State == container.StateRestarting:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is restarting, wait until the container is running", r.ID))
	case !r.running():
		return notRunning(r)
	}
	return nil
}

func (e *Execs) publishExec(r *record, v *execs.Execution, action events.Action, pairs ...string) {
	e.publish(r, action, append(pairs, "execID", v.ID)...)
}

// ExecStart runs a prepared process. Without hijack it runs on its own; with
// it, the client's connection is its input and output.
func (e *Execs) ExecStart(ctx context.Context, id string, o ExecStartOptions, hijack Hijack) error {
	v, err := e.index.Get(id)
	if err != nil {
		return err
	}
	c, err := e.find(v.Container)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	if err := mayExec(r); err != nil {
		return err
	}
	keys, err := detachKeys(v.Config.DetachKeys, v.Config.Tty)
	if err != nil {
		return err
	}
	p, err := e.execProcess(r, v, o)
	if err != nil {
		return err
	}
	q := keeper.ExecRequest{ContainerID: r.ID, ExecID: id, Process: p, StdinOnce: true, DetachKeys: keys,
		KillOnDisconnect: v.Config.KillOnDisconnect, AwaitAttach: hijack != nil}
	if err := e.index.Start(id); err != nil {
		return err
	}
	e.publishExec(r, v, events.ActionExecStart+": "+events.Action(strings.Join(v.Config.Cmd, " ")))
	a := keeper.AttachRequest{ContainerID: r.ID, ExecID: id, Stdin: v.Config.Stdin, Stdout: v.Config.Stdout, Stderr: v.Config.Stderr,
		Stream: true, DetachKeys: keys, Starter: true, Terminal: o.Tty, ExitFrame: o.ExitFrame}
	var began keeper.Started
	if o.ExitFrame && hijack != nil {
		q.Client = &a
		began, err = e.execAtOnce(ctx, v, q, hijack)
	} else if began, err = e.o.Keeper.Exec(ctx, q); err != nil {
		err = e.execFailed(v, err)
	}
	if err != nil {
		return err
	}
	e.index.Began(id, began.PID)
	if !v.Config.Check {
		e.o.Images.Touch(digest.Digest(r.ImageID))
	}
	if hijack == nil || o.ExitFrame {
		return nil
	}
	return e.handOver(readFirst(hijack), outputWording(o.Tty), func(conn net.Conn, buffered []byte) error { return e.o.Keeper.Attach(ctx, a, conn, buffered) })
}

// execAtOnce gives the client's connection to the keeper with the exec, so that its
// answer waits for nobody here. What fails from then on is said there too, with the
// exit code.
func (e *Execs) execAtOnce(ctx context.Context, v *execs.Execution, q keeper.ExecRequest, hijack Hijack) (began keeper.Started, err error) {
	conn, buffered, err := hijack()
	if err != nil {
		return began, e.execFailed(v, err)
	}
	q.Buffered = buffered
	began, err = e.o.Keeper.ExecFor(ctx, q, conn)
	if err == nil {
		return began, nil
	}
	if began.PID == 0 {
		err = e.execFailed(v, err)
	}
	code := 126
	if ended, lost := e.index.Get(v.ID); lost == nil && ended.Exit != nil {
		code = *ended.Exit
	}
	last := binary.BigEndian.AppendUint32([]byte{StreamExit, 0, 0, 0, 0, 0, 0, 4}, uint32(code))
	_, _ = conn.Write(append(outputWording(false)(err), last...)) // the client may be gone
	_ = conn.Close()                                              // err says what went wrong
	return began, err
}

func (e *Execs) execFailed(v *execs.Execution, err error) error {
	code := 126
	failed := fmt.Errorf("exec failed: %w", err)
	if b, ok := errors.AsType[*box.Error](err); ok {
		if b.ExitCode == 127 || b.Step == box.StepCwd { // Docker knows these two codes only
			code = 127
		}
		failed = errdefs.ErrInvalidArgument.WithMessage("exec failed: " + b.Message)
	}
	if errdefs.IsNotFound(err) { // the keeper has forgotten the container
		failed = errdefs.ErrConflict.WithMessage("container " + v.Container + " is not running")
	}
	if _, err := e.index.End(v.ID, code); err != nil {
		e.o.Log.Warn("store an exec's end", "error", err)
	}
	return failed
}

// execProcess is the process of an exec: the container's, changed by the request.
// A privileged one has all capabilities, and the container's other walls: its
// seccomp filter too, as Docker's has.
func (e *Execs) execProcess(r *record, v *execs.Execution, o ExecStartOptions) (box.Process, error) {
	q := v.Config
	h := *r.HostConfig
	if q.Privileged {
		h.Privileged = true
	}
	caps, err := spec.Capabilities(h.CapAdd, h.CapDrop, h.Privileged)
	if err != nil {
		return box.Process{}, err
	}
	config := *r.Config
	config.Tty = q.Tty
	p := spec.Process(&config, &h, caps)
	p.Args, p.Terminal, p.OpenStdin, p.AttachStdout, p.AttachStderr = q.Cmd, q.Tty, q.Stdin, q.Stdout, q.Stderr
	p.Env = spec.MergeEnv(p.Env, q.Env)
	if q.User != "" {
		p.User = q.User
	}
	if q.WorkingDir != "" {
		p.Cwd = q.WorkingDir
	}
	height, width := q.ConsoleHeight, q.ConsoleWidth
	if o.ConsoleHeight != 0 || o.ConsoleWidth != 0 {
		height, width = o.ConsoleHeight, o.ConsoleWidth
	}
	p.ConsoleHeight, p.ConsoleWidth, p.Rare = uint16(height), uint16(width), q.Check
	security, err := spec.ParseSecurity(h.SecurityOpt)
	if err != nil {
		return p, err
	}
	if caps, err = spec.Capabilities(h.CapAdd, h.CapDrop, r.HostConfig.Privileged); err != nil {
		return p, err
	}
	p.SELinuxLabel = r.Labels.Process
	return p, e.o.Walls.Confine(&p, r.HostConfig, security, caps)
}

// execExited stores an exec's exit and acknowledges it.
func (e *Execs) execExited(containerID, id string, exit box.Exit) {
	v, err := e.index.Get(id)
	if err == nil {
		ended, err := e.index.End(id, exit.Code)
		if err != nil {
			e.o.Log.Warn("store an exec's end", "error", err)
			return
		}
		if c, err := e.entry(containerID); err == nil && ended {
			e.publishExec(c.latest.Load(), v, events.ActionExecDie, "exitCode", strconv.Itoa(exit.Code))
		}
	}
	e.work.Go(func() {
		if err := e.o.Keeper.ForgetExec(e.ctx, containerID, id); err != nil && !errdefs.IsNotFound(err) && e.ctx.Err() == nil {
			e.o.Log.Warn("acknowledge an exec's end", "error", err)
		}
	})
}

// execsEnded closes the execs of a container that has ended: the kernel ended
// their processes with its first one.
func (e *Execs) execsEnded(containerID string) {
	for _, v := range e.index.Of(containerID) {
		e.closeExec(v.ID, 137)
	}
}

// closeExec stores the end of an exec that runs, which nobody tells.
func (e *Execs) closeExec(id string, code int) {
	v, err := e.index.Get(id)
	if err != nil || !v.Running {
		return
	}
	if _, err := e.index.End(id, code); err != nil {
		e.o.Log.Warn("store an exec's end", "error", err)
	}
}

// meet compares the execs that ran with what the keeper has. One that it has not
// was lost with it and its holder, both killed: its exit code nobody knows.
func (e *Execs) meet(ran []*execs.Execution, list []keeper.Status) {
	known := map[string]keeper.ExecStatus{}
	for _, s := range list {
		for _, x := range s.Execs {
			known[x.ID] = x
		}
	}
	for _, v := range ran {
		if x, ok := known[v.ID]; !ok {
			e.closeExec(v.ID, lostExit)
		} else if x.Exit == nil { // the keeper tells the exit again
			e.index.Began(v.ID, x.PID)
		}
	}
}

// loadExecs takes up the execs of the hezid before.
func (e *Execs) loadExecs(list []keeper.Status) error {
	if err := e.index.Load(e.o.Log); err != nil {
		return err
	}
	for _, v := range e.index.Of("") {
		if _, err := e.entry(v.Container); err != nil { // it ended while its container was removed
			if err := e.index.Take(v.Container); err != nil {
				return err
			}
		}
	}
	e.meet(e.index.Of(""), list)
	return nil
}

// seen is an exec as the keeper knows it: a client asks for the exit code as
// soon as its stream has ended, which may be before the keeper's event is here.
func (e *Execs) seen(ctx context.Context, id string) (*execs.Execution, error) {
	const patience = 10 // times 300 µs
	for range patience {
		v, err := e.index.Get(id)
		if err != nil || !v.Running || v.PID == 0 {
			return v, err
		}
		if !proc.Exited(v.PID) {
			return v, nil
		}
		time.Sleep(300 * time.Microsecond)
	}
	list, err := e.o.Keeper.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		for _, x := range s.Execs {
			if x.ID == id && x.Exit != nil {
				e.execExited(s.ID, id, *x.Exit)
			}
		}
	}
	return e.index.Get(id)
}

// ExecInspect tells about an exec.
func (e *Execs) ExecInspect(ctx context.Context, id string) (container.ExecInspectResponse, error) {
	v, err := e.seen(ctx, id)
	if err != nil {
		return container.ExecInspectResponse{}, err
	}
	q := v.Config
	privileged := q.Privileged
	return container.ExecInspectResponse{
		ID: v.ID, ContainerID: v.Container, Running: v.Running, ExitCode: v.Exit, Pid: v.PID, CanRemove: v.Exit != nil,
		OpenStdin: q.Stdin, OpenStdout: q.Stdout, OpenStderr: q.Stderr, DetachKeys: []byte(q.DetachKeys),
		ProcessConfig: &container.ExecProcessConfig{Tty: q.Tty, Entrypoint: q.Cmd[0], Arguments: q.Cmd[1:], Privileged: &privileged, User: q.User},
	}, nil
}

// ExecResize sets the size of an exec's terminal, in characters.
func (e *Execs) ExecResize(ctx context.Context, id string, height, width uint16) error {
	v, err := e.index.Get(id)
	if err != nil {
		return err
	}
	return e.o.Keeper.Resize(ctx, v.Container, id, height, width)
}
