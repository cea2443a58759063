package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"hezi/internal/box"
	"hezi/internal/engine/attach"
	"hezi/internal/engine/cdi"
	"hezi/internal/engine/spec"
	"hezi/internal/image"
	"hezi/internal/keeper"
	"hezi/internal/network"
	"hezi/internal/network/egress"
	"hezi/internal/runtimes"
	"hezi/internal/timeline"
)

// Start starts a container; one that runs already is a NotModified error.
// A failed step of the start is a *StartError.
func (e *Engine) Start(ctx context.Context, ref string) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	r := c.latest.Load()
	if c.removing {
		return errdefs.ErrConflict.WithMessage("container is marked for removal and cannot be started")
	}
	switch r.State {
	case container.StatePaused:
		return errdefs.ErrConflict.WithMessage("cannot start a paused container, try unpause instead")
	case container.StateRunning:
		return errdefs.ErrNotModified.WithMessage("container " + r.ID + " is already running")
	}
	if err := (roots{e.records}).here(r); err != nil { // how it last ended stays known
		return err
	}
	c.cancelRestart()
	return e.start(ctx, c, r.State == container.StateRestarting)
}

// StartError is a start that failed; what was made for it is undone.
type StartError struct {
	Container string
	Exit      int // what the client exits with: 125, 126 or 127
	Err       error
}

func (e *StartError) Error() string { return e.Err.Error() }

func (e *StartError) Unwrap() error { return e.Err }

// start does the work of a start under the container's lock.
func (e *Engine) start(ctx context.Context, c *entry, again bool) error {
	r := c.latest.Load()
	began, err := e.launcher.launch(ctx, c)
	for tries := 0; unprepared(err) && tries < 3; tries++ {
		release(e.records, r)
		began, err = e.launcher.launch(ctx, c)
	}
	if err == nil {
		err = e.launcher.started(ctx, c, began)
	}
	if err == nil {
		_, err = e.change(c, func(r *record) {
			r.State, r.PID, r.Started, r.Cgroups, r.Pipes = container.StateRunning, began.PID, began.StartedAt, began.CgroupPaths, began.Pipes
			r.Exit, r.Error, r.OOM, r.Stopping = 0, "", false, nil
			if !again {
				r.Stopped, r.Restarts = false, 0
			}
		})
		if err == nil {
			timeline.Of(ctx).Mark("state", "that it runs is stored")
			c.over = make(chan struct{})
			e.checks.begin(c)
			output{e.records}.shipLog(c.latest.Load())
			e.publish(r, events.ActionStart)
			relink(e.records, r)
			return nil
		}
		e.giveUp(c, began)
	}
	release(e.records, r)
	failed, hooks := failure(r, err), c.latest.Load().Hooks
	if _, err := e.change(c, func(r *record) {
		if r.State == container.StateRestarting {
			r.State = container.StateExited
		}
		r.Exit, r.Error, r.Net, r.Finished = failed.Exit, failed.Error(), nil, time.Now().UTC()
		r.Hooks = nil
	}); err != nil {
		e.o.Log.Error("store that a start failed", "container", r.ID, "error", err)
	}
	unhook(e.records, c, hooks, func() {})
	if r.HostConfig.AutoRemove {
		if err := e.remove(c, RemoveOptions{Volumes: true}); err != nil {
			e.o.Log.Error("remove a container that did not start", "container", r.ID, "error", err)
		}
	}
	return failed
}

// unprepared says whether a start failed since the keeper was replaced, or died, with
// what it had prepared: once more, it succeeds.
func unprepared(err error) bool {
	var b *box.Error
	return errors.As(err, &b) && b.Step == box.StepPrepared
}

// failure gives a failed start its exit code and its class.
func failure(r *record, err error) *StartError {
	s := &StartError{Container: r.ID, Exit: 125, Err: err}
	var b *box.Error
	if !errors.As(err, &b) {
		return s
	}
	s.Exit = b.ExitCode
	if s.Exit == 0 {
		s.Exit = 125
	}
	msg := "failed to create task for container: " + b.Message
	if cmd := r.Config.Cmd; s.Exit == 127 && len(r.Config.Entrypoint) == 0 && len(cmd) > 0 && strings.HasPrefix(cmd[0], "-") {
		msg += fmt.Sprintf(": it stands after the image and was taken for the program: options go before the image, as in: run %s %s", strings.Join(cmd, " "), r.Config.Image)
	}
	class := errdefs.ErrInternal.WithMessage(msg)
	if s.Exit == 126 || s.Exit == 127 || b.Step == box.StepUser || b.Step == box.StepCwd || b.Step == box.StepSysctl {
		class = errdefs.ErrInvalidArgument.WithMessage(msg)
	}
	s.Err = class
	return s
}

// giveUp ends a process whose start could not be stored.
func (e *records) giveUp(c *entry, _ keeper.Started) {
	id := c.latest.Load().ID
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 30*time.Second)
	defer cancel()
	err := e.o.Keeper.KillAll(ctx, id)
	if err == nil {
		_, err = e.o.Keeper.WaitExit(ctx, id, keeper.WaitNotRunning)
	}
	if err == nil {
		err = e.o.Keeper.Forget(ctx, id, false)
	}
	if err != nil {
		e.o.Log.Error("end a container whose start could not be stored", "container", id, "error", err)
	}
}

// launch makes what a container needs and has the keeper start it.
func (e launcher) launch(ctx context.Context, c *entry) (keeper.Started, error) {
	var none keeper.Started
	if err := c.unhooked(ctx); err != nil {
		return none, err
	}
	lap := timeline.Of(ctx)
	lap.Mark("lock", "nothing else is done with the container")
	r := c.latest.Load()
	root, err := e.o.Images.RootFS(ctx, r.image())
	if err != nil {
		return none, err
	}
	e.o.Images.Touch(digest.Digest(r.ImageID))
	lap.Mark("image", "the directories of its layers")
	mounts, err := e.mounts(ctx, r)
	if err != nil {
		return none, err
	}
	lap.Mark("volumes", "volumes and binds")
	pid, ipc, err := neighbours(e).of(r)
	if err != nil {
		return none, err
	}
	of, err := mapper(e).host(r)
	if err != nil {
		return none, err
	}
	ns, sandbox, init, err := e.join(ctx, r, box.Namespaces{PID: joinOf(pid), IPC: joinOf(ipc), User: joinOf(of)})
	if err != nil {
		return none, err
	}
	lap.Mark("network", "its place in the networks and its published ports")
	files, err := e.writeFiles(r, sandbox)
	if err != nil {
		return none, err
	}
	lap.Mark("files", "the files of its own in /etc")
	base, err := roots(e).mounted(ctx, r, root)
	if err != nil {
		return none, err
	}
	lap.Mark("layer", "its writable layer")
	security, err := spec.ParseSecurity(r.HostConfig.SecurityOpt)
	if err != nil {
		return none, err
	}
	devices, err := e.o.CDI.Edits(r.HostConfig.DeviceRequests)
	if err != nil {
		return none, err
	}
	in := spec.Input{
		Security: security,
		ID:       r.ID, Config: r.Config, HostConfig: r.HostConfig, Mounts: slices.Concat(files, mounts, devices.Mounts), Net: ns, PID: pid, IPC: ipc, Users: r.Users, UsersOf: of, CgroupParent: e.o.CgroupParent, Foreign: e.o.Defaults.CgroupParent,
		Root: base,
	}
	s, err := spec.Build(in)
	if err != nil {
		return none, err
	}
	devices.Apply(&s)
	s.Process.Env = spec.MergeEnv(s.Process.Env, devices.Env)
	if err := e.o.Walls.Confine(&s.Process, r.HostConfig, security, s.Process.Capabilities.Bounding); err != nil {
		return none, err
	}
	if err := (labeller(e)).apply(r, &s); err != nil {
		return none, err
	}
	launch, err := e.other(r, &s, security, devices)
	if err != nil {
		return none, err
	}
	after, err := e.hook(r, &s, launch, devices)
	if err != nil {
		return none, err
	}
	if err := e.place(ctx, r, &s, init); err != nil {
		return none, after.Drop(err)
	}
	log, err := output(e).logConfig(r)
	if err != nil {
		return none, after.Drop(err)
	}
	lap.Mark("settings", "the request as the keeper takes it")
	// What the container has is stored before it runs: an engine that dies in
	// between finds the process at the keeper and its network here.
	intent := *r
	intent.Net, intent.Hooks = sandbox, after
	if err := e.saveFile(&intent); err != nil {
		return none, after.Drop(err)
	}
	c.latest.Store(&intent)
	lap.Mark("intent", "what it will have is stored")
	req := keeper.StartRequest{Launch: launch, Spec: s, Log: log, StdinOnce: r.Config.StdinOnce, Timeline: lap != nil}
	if sandbox != nil {
		req.Ports = sandbox.Sockets[:min(len(sandbox.Sockets), keeper.MaxPorts)]
		req.Names = sandbox.Names
	}
	asked := time.Now()
	began, err := e.o.Keeper.Start(ctx, req)
	if errdefs.IsConflict(err) {
		// An exit that nobody acknowledged: the engine died after it.
		if ferr := e.o.Keeper.Forget(ctx, r.ID, false); ferr == nil {
			began, err = e.o.Keeper.Start(ctx, req)
		}
	}
	if errdefs.IsUnavailable(err) {
		began, err = e.begun(ctx, r.ID, asked, err)
	}
	lap.Include(began.Phases, "keeper", "the way to the keeper and back")
	if err == nil {
		e.settleLimits(ctx, &s)
	}
	return began, err
}

// begun is a start whose answer was lost with the keeper: what its successor has
// of since it was asked runs. What it does not have was ended with the one before,
// and lost is why.
func (e launcher) begun(ctx context.Context, id string, asked time.Time, lost error) (keeper.Started, error) {
	list, err := e.o.Keeper.List(ctx)
	if err != nil {
		return keeper.Started{}, lost
	}
	for _, s := range list {
		if s.ID == id && s.StartedAt.After(asked) { // not an earlier run that nobody acknowledged
			return keeper.Started{PID: s.PID, StartedAt: s.StartedAt, CgroupPaths: s.CgroupPaths, Pipes: s.Pipes}, nil
		}
	}
	return keeper.Started{}, fmt.Errorf("%w: the container does not run: start it again", lost)
}

// other is what another runtime than the engine's own is told; nil: the
// container is started by that.
func (e launcher) other(r *record, s *box.Spec, security *spec.Security, devices *cdi.Edits) (*runtimes.Launch, error) {
	run, err := e.o.Runtimes.Find(r.HostConfig.Runtime)
	if err != nil {
		return nil, err
	}
	if run == nil {
		return nil, nil
	}
	filter, err := e.o.Walls.Filter(r.HostConfig, security, s.Process.Capabilities.Bounding)
	if err != nil {
		return nil, err
	}
	s.Process.Seccomp, s.Process.SeccompFlags = nil, 0 // it compiles its own
	return &runtimes.Launch{Runtime: *run, Seccomp: filter, Annotations: r.HostConfig.Annotations, Hooks: devices.Hooks}, nil
}

func (r *record) image() *image.Image {
	return &image.Image{ID: digest.Digest(r.ImageID), Manifest: r.Manifest, Layers: r.Layers}
}

// join makes the container's place in its network. init is the process that was
// prepared to be there; 0: none.
func (e launcher) join(ctx context.Context, r *record, others box.Namespaces) (_ box.Namespace, _ *network.Sandbox, init int, _ error) {
	mode := r.HostConfig.NetworkMode
	switch {
	case mode.IsHost():
		return box.Namespace{Mode: box.NamespaceHost}, nil, 0, nil
	case mode.IsContainer():
		o, err := e.joined(r)
		if err != nil {
			return box.Namespace{}, nil, 0, err
		}
		if o.HostConfig.NetworkMode.IsHost() {
			return box.Namespace{Mode: box.NamespaceHost}, nil, 0, nil
		}
		return box.Namespace{Mode: box.NamespaceJoin, Of: &box.Owner{ID: o.ID}}, nil, 0, nil
	}
	if err := linked(e.records, r); err != nil {
		return box.Namespace{}, nil, 0, err
	}
	place := r.place()
	var err error
	if place.Resolving, err = resolving(&e.o.Defaults, r); err != nil {
		return box.Namespace{}, nil, 0, err
	}
	if r.Users != nil {
		others.IPC.Mode, others.UTS.Mode = modeOf(r.HostConfig.IpcMode.IsHost(), others.IPC.Mode), modeOf(r.HostConfig.UTSMode.IsHost(), "")
		made, err := e.o.Keeper.Prepare(ctx, keeper.PrepareRequest{ContainerID: r.ID, Users: r.Users, Namespaces: others})
		if err != nil {
			return box.Namespace{}, nil, 0, err
		}
		f, err := preparedNet(r.ID, made)
		if err != nil {
			return box.Namespace{}, nil, 0, err
		}
		defer f.Close()
		init = made.PID
		place.Namespace = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	}
	box1, err := e.o.Networks.Join(ctx, place)
	if err != nil {
		return box.Namespace{}, nil, 0, err
	}
	return box.Namespace{Mode: box.NamespaceJoin, Path: box1.Path}, box1, init, nil
}

// preparedNet opens the network namespace that was prepared for a container. It is no
// other's: the process may have ended, and its number be used again.
func preparedNet(id string, made keeper.Prepared) (*os.File, error) {
	lost := func(err error) error {
		return &box.Error{Step: box.StepPrepared, Subject: id, ExitCode: 125, Message: "the namespaces that were prepared for the container are gone: " + err.Error()}
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", made.PID))
	if err != nil {
		return nil, lost(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(lost(err), f.Close())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && made.Net != 0 && st.Ino != made.Net {
		return nil, errors.Join(lost(errors.New("its process is another")), f.Close())
	}
	return f, nil
}

// joined is the container whose network a container uses.
func (e launcher) joined(r *record) (*record, error) {
	ref := r.HostConfig.NetworkMode.ConnectedContainer()
	c, err := e.entry(ref)
	if err != nil {
		return nil, err
	}
	o := c.latest.Load()
	switch {
	case o.ID == r.ID:
		return nil, errdefs.ErrInvalidArgument.WithMessage("a container cannot join its own network: --network container:" + ref)
	case !o.running():
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot join network of a non running container: %s: start it first", ref))
	case o.HostConfig.NetworkMode.IsContainer():
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("container %s itself uses the network of another: write --network %s", ref, o.HostConfig.NetworkMode))
	}
	return o, nil
}

// place is what is asked of the networks for a container.
func (r *record) place() network.SandboxRequest {
	return network.SandboxRequest{ContainerID: r.ID, ContainerName: r.Name, Endpoints: r.attached().Requests(), Ports: r.published(), Egress: r.Config.Labels[egress.Label]}
}

// attached is what others know of the container in its networks.
func (r *record) attached() attach.Container {
	return attach.Container{ID: r.ID, Name: r.Name, Hostname: r.Config.Hostname, Domain: r.Config.Domainname, Mode: r.HostConfig.NetworkMode, Wanted: r.Networks, MAC: r.MAC, BridgeLinks: r.bridgeLinks()}
}
