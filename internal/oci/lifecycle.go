package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/hooks"
)

// call is one call of the command.
type call struct {
	root    string // of the state
	version string
	systemd bool // makes the cgroups
	log     logger
}

// warn says what is no error to whoever reads errors.
func (r *call) warn(message string) {
	fmt.Fprintln(os.Stderr, "hezi-keeper oci: warning: "+message)
	if err := r.log.write("warning", message); err != nil {
		fmt.Fprintln(os.Stderr, "hezi-keeper oci: "+err.Error())
	}
}

func (r *call) debug(format string, args ...any) { r.log.debug(fmt.Sprintf(format, args...)) }

func newBox() (*box.Runtime, error) { return box.NewRuntime(box.Options{}) }

// create makes a container that waits for start.
func (r *call) create(id, bundle, pidFile, console string, detached bool) (_ *container, _ *box.Proc, err error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	if bundle, err = filepath.Abs(bundle); err != nil {
		return nil, nil, err
	}
	config, err := load(bundle)
	if err != nil {
		return nil, nil, err
	}
	spec, err := boxSpec(id, bundle, config, r.warn)
	if err != nil {
		return nil, nil, err
	}
	if err := checkConsole(spec.Process.Terminal, console, detached); err != nil {
		return nil, nil, err
	}
	slice, err := groups(spec, config.Linux, r.systemd)
	if err != nil {
		return nil, nil, err
	}
	r.debug("create %s: bundle %s, root file system %s, cgroup %s/%s", id, bundle, spec.Root.Path, spec.Cgroup.Parent, cmp.Or(spec.Cgroup.Scope, spec.ID))
	c := &container{dir: filepath.Join(r.root, id), record: record{Created: time.Now().UTC(), Rootfs: spec.Root.Path,
		State: specs.State{Version: specs.Version, ID: id, Bundle: bundle, Annotations: config.Annotations, Status: specs.StateCreating}}}
	if h := config.Hooks; h != nil {
		spec.Hooks = hooksOf(h, spec.Root.Path, c.State)
		c.Poststart, c.Poststop = h.Poststart, h.Poststop
	}
	if err := c.make(r.root); err != nil {
		return nil, nil, err
	}
	defer c.close()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
	}()
	gate, err := c.openGate(spec.Users)
	if err != nil {
		return nil, nil, err
	}
	defer gate.Close()
	if c.Beside, err = besideOf(&spec.Namespaces.Mount, spec.Root.Path); err != nil {
		return nil, nil, err
	}
	rt, err := newBox()
	if err != nil {
		return nil, nil, err
	}
	defer rt.Close()
	ctx := context.Background()
	if c.Scope = spec.Cgroup.Scope; c.Scope != "" {
		c.Resources = spec.Cgroup.Resources
		if err := place(ctx, rt, id, spec, slice); err != nil {
			return nil, nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, endScope(c.Scope))
			}
		}()
	}
	proc, err := rt.Create(ctx, spec, standard(spec.Process.Terminal), box.Gate{FIFO: gate})
	if err != nil {
		return nil, nil, errors.Join(err, c.Beside.clear(spec.Root.Path))
	}
	defer func() {
		if err != nil {
			c.end(proc)
		}
	}()
	if c.Scope != "" {
		if err := settle(ctx, &spec.Cgroup); err != nil {
			return nil, nil, err
		}
	}
	r.debug("create %s: its process is %d", id, proc.PID)
	c.Pid, c.Started, c.CgroupPaths, c.Status = proc.PID, started(proc.PID), proc.CgroupPaths, specs.StateCreated
	if err := c.save(); err != nil {
		return nil, nil, err
	}
	if err := handOver(proc, console, pidFile); err != nil {
		return nil, nil, err
	}
	return c, proc, nil
}

// hooksOf are those that run while the box is made; nil: none does.
func hooksOf(h *specs.Hooks, root string, state specs.State) *box.Hooks {
	//lint:ignore SA1019 dockerd still has them
	out := &box.Hooks{Root: root, State: state, Prestart: h.Prestart, CreateRuntime: h.CreateRuntime, CreateContainer: h.CreateContainer, StartContainer: h.StartContainer}
	if len(out.Prestart)+len(out.CreateRuntime)+len(out.CreateContainer)+len(out.StartContainer) == 0 {
		return nil
	}
	return out
}

// make claims the id.
func (c *container) make(root string) (err error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(c.dir, 0o711); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("container with given ID already exists: %s", c.ID)
		}
		return err
	}
	if c.lock, err = os.Open(c.dir); err == nil {
		err = unix.Flock(int(c.lock.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = unix.Mkfifo(filepath.Join(c.dir, gateFile), 0o600)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}

// openGate opens the FIFO for init, which writes to it as root of its own namespace.
func (c *container) openGate(users *box.Users) (*os.File, error) {
	name := filepath.Join(c.dir, gateFile)
	if users != nil {
		uid, gid, _ := users.Root()
		if err := os.Lchown(name, int(uid), int(gid)); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, unix.O_PATH, 0)
}

// end undoes a process that was made.
func (c *container) end(proc *box.Proc) {
	_ = proc.Kill() // it may have ended
	wait(proc.PID)
	if g, err := c.group(); err == nil {
		_ = g.Remove() // what is left there is in the error that came before
	}
	_ = c.Beside.clear(c.Rootfs) // as is this
}

// handOver gives the terminal and the pid to whoever called.
func handOver(proc *box.Proc, console, pidFile string) error {
	if console != "" && proc.Console != nil {
		if err := sendConsole(console, proc.Console); err != nil {
			return err
		}
		proc.Console.Close()
		proc.Console = nil
	}
	if pidFile == "" {
		return nil
	}
	return writeFile(pidFile, []byte(strconv.Itoa(proc.PID)))
}

func standard(terminal bool) box.Stdio {
	if terminal {
		return box.Stdio{}
	}
	return box.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
}

// start lets a created container's program run.
func (r *call) start(id string) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	defer c.close()
	switch s := c.status(); s {
	case specs.StateCreated:
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	default:
		return fmt.Errorf("cannot start an already running container: it is %s", s)
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer pidfd.Close()
	name := filepath.Join(c.dir, gateFile)
	gate, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer gate.Close()
	for {
		list := []unix.PollFd{{Fd: int32(gate.Fd()), Events: unix.POLLIN}, {Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(list, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return err
		}
		if list[0].Revents&unix.POLLIN == 0 {
			return errors.New("the container's init ended before it was started")
		}
		break
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	state := c.State
	state.Status = specs.StateRunning
	return hooks.Run(context.Background(), c.Poststart, state, "poststart")
}

// kill sends a signal to the container's process, or to all of it.
func (r *call) kill(id string, signal unix.Signal, all bool) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	defer c.close()
	if all {
		return c.signalAll(signal)
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer pidfd.Close()
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), signal, nil, 0); err != nil {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(signal), c.Pid, err)
	}
	return nil
}

func (c *container) signalAll(signal unix.Signal) error {
	g, err := c.group()
	if err != nil {
		return err
	}
	if signal == unix.SIGKILL {
		return g.Kill()
	}
	pids, err := g.Procs()
	for _, pid := range pids {
		if kerr := unix.Kill(pid, signal); kerr != nil && kerr != unix.ESRCH {
			err = errors.Join(err, fmt.Errorf("send %s to process %d: %w", unix.SignalName(signal), pid, kerr))
		}
	}
	return err
}

// remove forgets a container that has ended; force ends it.
func (r *call) remove(id string, force bool) error {
	c, err := r.open(id)
	if force && errors.Is(err, errNoContainer) {
		if checkID(id) == nil { // what a create that was killed has left
			return os.RemoveAll(filepath.Join(r.root, id))
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer c.close()
	if s := c.status(); s != specs.StateStopped {
		if s != specs.StateCreated && !force {
			return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
		}
		if pidfd, err := c.pidfd(); err == nil {
			if err := unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
				pidfd.Close()
				return err
			}
			if c.frozen() { // only a thawed one dies
				if g, err := c.group(); err == nil {
					_ = g.Thaw()
				}
			}
			ended := waitFor(pidfd, 10*time.Second)
			pidfd.Close()
			if !ended {
				return fmt.Errorf("container %s does not end: its process %d was killed and waits for a device or file system that does not answer", id, c.Pid)
			}
		}
	}
	g, err := c.group()
	if err != nil {
		return err
	}
	if pids, err := g.Procs(); err == nil && len(pids) > 0 {
		if err := g.Kill(); err != nil {
			return err
		}
	}
	if err := g.Remove(); err != nil {
		return fmt.Errorf("remove the container's cgroup: %w", err)
	}
	if c.Scope != "" {
		if err := endScope(c.Scope); err != nil {
			return err
		}
	}
	if err := c.Beside.clear(c.Rootfs); err != nil {
		return err
	}
	r.debug("delete %s: its processes, cgroup and mounts are gone", id)
	if err := os.RemoveAll(c.dir); err != nil {
		return err
	}
	state := c.State
	state.Status, state.Pid = specs.StateStopped, 0
	return hooks.Run(context.Background(), c.Poststop, state, "poststop")
}

// pause and resume.
func (r *call) freeze(id string, frozen bool) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	defer c.close()
	g, err := c.group()
	if err != nil {
		return err
	}
	switch s := c.status(); {
	case frozen && (s == specs.StateRunning || s == specs.StateCreated):
		return g.Freeze()
	case !frozen && s == statusPaused:
		return g.Thaw()
	default:
		return fmt.Errorf("container not %s: it is %s", map[bool]string{true: "running", false: "paused"}[frozen], s)
	}
}

// wait returns a child's exit code once it has ended.
func wait(pid int) int {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 255
		case status.Signaled():
			return 128 + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}

// waitFor says whether a process has ended within a time; negative: any time.
func waitFor(pidfd *os.File, most time.Duration) bool {
	until := time.Now().Add(most)
	for {
		timeout := -1
		if most >= 0 {
			timeout = int(max(0, time.Until(until)).Milliseconds())
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}, timeout)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0
	}
}
