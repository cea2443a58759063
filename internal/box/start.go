package box

import (
	"context"
	"errors"
	"io"
	"os"

	"hezi/internal/box/initbin"
	"hezi/internal/box/initproc"
	"hezi/internal/box/plan"
	"hezi/internal/timeline"

	"golang.org/x/sys/unix"
)

// Start makes a box and returns once its program runs. On error nothing of it
// is left, and the error is an *Error where a step failed.
func (r *Runtime) Start(ctx context.Context, spec *Spec, stdio Stdio) (*Proc, error) {
	return r.start(ctx, spec, stdio, Gate{})
}

// Gate divides a start in two, as the OCI runtime specification does.
type Gate struct {
	// FIFO (O_PATH) must be read before the program runs: Create does not wait
	// for that, and this process may end before. What fails then is not told.
	FIFO *os.File
}

// Create is Start up to a gate.
func (r *Runtime) Create(ctx context.Context, spec *Spec, stdio Stdio, gate Gate) (*Proc, error) {
	return r.start(ctx, spec, stdio, gate)
}

func (r *Runtime) start(ctx context.Context, spec *Spec, stdio Stdio, gate Gate) (*Proc, error) {
	if !spec.Cgroup.Foreign {
		defer r.pool.refill(spec.Cgroup.Parent)
	}
	b, err := birthOf(&spec.Namespaces, spec.Users, spec.Hooks != nil)
	if err != nil {
		return nil, err
	}
	defer b.close()
	var born *child
	if spec.Users != nil || spec.Cgroup.Scope != "" {
		if born, err = r.birthplace(spec); err != nil {
			return nil, err
		}
	}
	var prepared *spare
	if b.flags == spareFlags && b.mode == initproc.ModeStart && b.pidNS < 0 && spec.Cgroup.plain() && spec.Namespaces.Cgroup.Mode == NamespaceNew {
		prepared = r.pool.take(spec.Cgroup.Parent, spec.ID)
	}
	group, err := r.cgroups.create(ctx, &spec.Cgroup, spec.ID)
	if err != nil {
		if prepared != nil {
			prepared.discard()
		}
		if born != nil {
			born.kill()
		}
		return nil, cgroupError(spec.ID, err)
	}
	timeline.Of(ctx).Mark("cgroup", "the cgroup and the limits that need no process")
	proc, err := r.startIn(ctx, spec, stdio, gate, group, b, prepared, born)
	if err != nil {
		return nil, errors.Join(err, group.Remove())
	}
	group.Close()
	return proc, nil
}

func cgroupError(id string, err error) error {
	var step *Error
	if errors.As(err, &step) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return stepError(StepCgroup, id, err, "cannot set up the container's cgroup")
}

func (r *Runtime) startIn(ctx context.Context, spec *Spec, stdio Stdio, gate Gate, group group, birth birth, prepared *spare, born *child) (*Proc, error) {
	b := newBundle()
	defer b.close()
	birth.cgroupFD = group.FD()
	var c *child
	attached := make(chan error, 1)
	switch {
	case prepared != nil:
		c = prepared.child
		close(attached)
	case born != nil:
		c, birth.cgroupFD = born, -1
		attach(c, group, birth, attached)
	default:
		var err error
		if c, err = r.spawn(birth); err != nil {
			return nil, err
		}
		attach(c, group, birth, attached)
	}
	timeline.Of(ctx).Mark("init", "one that was prepared is taken or one is started")
	if gate.FIFO != nil {
		b.plan.Gate = b.lend(rawFD(gate.FIFO))
	}
	proc, err := r.build(ctx, c, prepared, b, spec, stdio, group, attached)
	if err != nil {
		c.kill()
		<-attached // writing the pid may still be under way
		return nil, err
	}
	c.conn.Close()
	return proc, nil
}

// attach moves an init that was not born in its cgroup there: the move waits
// for an RCU grace period, beside which init builds the box.
func attach(c *child, group group, birth birth, attached chan<- error) {
	if birth.cgroupFD >= 0 {
		close(attached)
		return
	}
	go func() {
		defer close(attached)
		if err := group.Add(c.pid); err != nil {
			attached <- cgroupError("", err)
		}
	}()
}

// birthOf says what a box's init is born into. With hooks it does not leave the
// host's mounts until these have run.
func birthOf(n *Namespaces, users *Users, hooked bool) (birth, error) {
	b := birth{mode: initproc.ModeStart, flags: unix.CLONE_NEWNS, cgroupFD: -1, pidNS: -1, userNS: -1, users: users}
	if hooked {
		b.mode = initproc.ModeUser
	}
	if users != nil {
		b.mode, b.flags = initproc.ModeUser, b.flags|unix.CLONE_NEWUSER
	}
	if n.Mount.Mode != NamespaceNew {
		if users != nil {
			return b, stepError(StepNamespace, "mnt", nil, "a box in a user namespace needs a mount namespace of its own: it may mount nothing in another's")
		}
		b.mode, b.flags = initproc.ModeBeside, 0
	}
	for _, ns := range []struct {
		flag uintptr
		Namespace
	}{{unix.CLONE_NEWPID, n.PID}, {unix.CLONE_NEWIPC, n.IPC}, {unix.CLONE_NEWUTS, n.UTS}, {unix.CLONE_NEWNET, n.Net}} {
		if ns.Mode == NamespaceNew {
			b.flags |= ns.flag
		}
	}
	if n.User.Mode == NamespaceJoin {
		fd, err := openNamespace("user", n.User)
		if err != nil {
			return b, err
		}
		b.userNS, b.users, b.flags = fd, nil, b.flags&^unix.CLONE_NEWUSER
	}
	if n.PID.Mode == NamespaceJoin {
		fd, err := openNamespace("pid", n.PID)
		if err != nil {
			b.close()
			return b, err
		}
		b.pidNS = fd
	}
	return b, nil
}

func (b birth) close() {
	for _, fd := range []int{b.pidNS, b.userNS} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// fill completes the bundle, with what a user namespace needs.
func (r *Runtime) fill(c *child, b *bundle, spec *Spec, stdio Stdio) error {
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; m.Owners != nil {
			fd, err := r.namespaceOf(m.Owners, c, spec.Users)
			if err != nil {
				return err
			}
			b.owned = append(b.owned, fd)
			b.owners[m] = fd
		}
	}
	if spec.Users == nil {
		return b.fill(spec)
	}
	fd, err := r.namespaceOf(spec.Users, c, spec.Users)
	if err != nil {
		return err
	}
	b.owned = append(b.owned, fd)
	b.userns = fd
	if err := b.fill(spec); err != nil {
		return err
	}
	return b.outside(spec, c, stdio)
}

func (r *Runtime) build(ctx context.Context, c *child, prepared *spare, b *bundle, spec *Spec, stdio Stdio, group group, attached <-chan error) (*Proc, error) {
	if err := r.fill(c, b, spec, stdio); err != nil {
		return nil, err
	}
	if k := stockOf(&b.plan); k != nil && spec.Users == nil && spec.Cgroup.plain() {
		r.pool.remember(k)
		b.plan.Stocked = prepared != nil && prepared.stock == k.key
	}
	if !b.plan.Stocked {
		if err := b.hierarchies(group.Paths()); err != nil {
			return nil, err
		}
	}
	if spec.Users != nil {
		if err := delegate(spec, group.Paths()); err != nil {
			return nil, err
		}
	}
	b.lendStdio(stdio)
	if spec.Init {
		tiny, err := r.tinyInit()
		if err == nil && spec.FileLabel != "" { // its own: the policy allows no other to be its first program
			if tiny, err = initbin.Tiny(spec.FileLabel); err == nil {
				defer tiny.Close()
			}
		}
		if err != nil {
			return nil, stepError(StepExec, "hezi-tiny", nil, err.Error())
		}
		b.plan.Tiny = b.lend(rawFD(tiny))
	}
	lap := timeline.Of(ctx)
	lap.Mark("plan", "what is mounted is opened and all is written down for init")
	proc := &Proc{PID: c.pid, PidFD: c.pidfd, CgroupPaths: group.Paths()}
	err := c.drive(ctx, b, proc, func(message byte) error {
		switch message {
		case plan.NeedCgroup:
			select {
			case err := <-attached:
				lap.Mark("enter", "init is in its cgroup")
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		case plan.Ready:
			lap.Mark("box", "init has made the box around itself")
			if err := b.raise(c.pid); err != nil {
				return err
			}
			if err := group.ApplyLate(); err != nil {
				return cgroupError(spec.ID, err)
			}
		case plan.Stands:
			return runtimeHooks(ctx, spec, c.pid)
		}
		return nil
	})
	if err != nil {
		if proc.Console != nil {
			proc.Console.Close()
		}
		return nil, err
	}
	lap.Mark("program", "the last limits and init becomes the program")
	return proc, nil
}

// drive sends the plan and answers init until its socket closes. before runs
// ahead of each Go.
func (c *child) drive(ctx context.Context, b *bundle, proc *Proc, before func(message byte) error) error {
	defer c.watch(ctx)()
	if err := c.sendPlan(b); err != nil {
		if !gone(err) { // it waits for the plan, and will say nothing
			return c.lost(ctx, err)
		}
		if text, _, rerr := c.receive(); rerr == nil && text[0] == plan.Failed { // its last words, before it read anything
			return failure(text)
		}
		return c.lost(ctx, err)
	}
	running := false
	var failed error
	for {
		text, file, err := c.receive()
		if err == io.EOF && failed != nil {
			return failed
		}
		if err == io.EOF && running {
			return nil
		}
		if err != nil {
			return c.lost(ctx, err)
		}
		switch text[0] {
		case plan.Console:
			proc.Console = file
		case plan.NeedCgroup, plan.Ready, plan.Stands:
			if err := before(text[0]); err != nil {
				return err
			}
			running = text[0] == plan.Ready
			if err := c.send([]byte{plan.Go}, nil); err != nil {
				return c.lost(ctx, err)
			}
		case plan.Child:
			running = true
			proc.PID = childPID(text)
		case plan.Failed:
			failed = failure(text) // a joined child's pid may still come
		}
	}
}

// gone says whether a message could not be sent since the other end is closed.
func gone(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }

// lost explains why the talk with init broke off.
func (c *child) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == io.EOF || gone(err) {
		return stepError(StepNamespace, "init", nil, "init ended before the program ran: it was killed (by a memory limit that is too small?)")
	}
	return stepError(StepNamespace, "init", err, "cannot talk to init")
}

func (r *Runtime) tinyInit() (*os.File, error) {
	r.tinyOnce.Do(func() { r.tiny, r.tinyErr = initbin.Tiny("") })
	return r.tiny, r.tinyErr
}
