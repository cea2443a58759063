package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

// Runtime is a program that speaks the OCI runtimes' command line.
type Runtime struct {
	Name string   // as --runtime and inspect have it
	Path string   // absolute, or a name that is looked up in PATH
	Args []string `json:",omitempty"` // before the command
	Root string   `json:",omitempty"` // of its state; "": one below the exec root
	// Systemd has it ask systemd for the container's scope.
	Systemd bool `json:",omitempty"`
}

// Launch is what another runtime is told beside a box's spec.
type Launch struct {
	Runtime Runtime
	// Seccomp stands for the compiled filter of the spec, which no runtime takes.
	Seccomp     *specs.LinuxSeccomp `json:",omitempty"`
	Annotations map[string]string   `json:",omitempty"`
	Hooks       *specs.Hooks        `json:",omitempty"`
}

// stager is what the client needs of package box. *box.Runtime has it.
type stager interface {
	Stage(spec *box.Spec, dir string) ([]box.Mount, error)
	InitFile() (*os.File, error)
	Birthplace(spec *box.Spec) (pid int, release func(), err error)
}

// Client runs boxes by other runtimes. The keeper has one. Its methods may be
// called from any goroutine.
type Client struct {
	dir    string
	boxes  stager
	groups *cgroup.Driver
	helps  sync.Map // path of a runtime to what it says of exec
	log    *slog.Logger
}

// Time that a runtime's commands may take.
const (
	makeTime   = 2 * time.Minute // for one that makes a process
	changeTime = 30 * time.Second
	lockTime   = 30 * time.Second // for a courier whose keeper was killed to end
)

// New makes a client that keeps its containers' folders below an exec root.
func New(execRoot, identity string, boxes stager, log *slog.Logger) (*Client, error) {
	groups, err := cgroup.New(identity)
	if err != nil {
		return nil, err
	}
	return &Client{dir: filepath.Join(execRoot, "runtimes"), boxes: boxes, groups: groups, log: log}, nil
}

func (c *Client) folder(id string) string { return filepath.Join(c.dir, id) }

// Has says whether a container was started by another runtime.
func (c *Client) Has(id string) bool {
	_, err := os.Stat(c.folder(id))
	return err == nil
}

// Name is the runtime of a container; "" when it is not of another runtime.
func (c *Client) Name(id string) string {
	r, err := c.runtimeOf(id)
	if err != nil {
		return ""
	}
	return r.Name
}

func (c *Client) runtimeOf(id string) (*Runtime, error) {
	text, err := os.ReadFile(filepath.Join(c.folder(id), "runtime.json"))
	if err != nil {
		return nil, fmt.Errorf("which runtime container %s has: %w", id, err)
	}
	r := &Runtime{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("which runtime container %s has: %w", id, err)
	}
	return r, nil
}

// lock serialises what is done to one container: how is LOCK_EX or LOCK_SH.
func (c *Client) lock(id string, how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.folder(id), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockTime); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(rawFD(f), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Now().After(until) {
			f.Close()
			return nil, fmt.Errorf("an earlier call of container %s's runtime does not end: %w", id, err)
		}
	}
}

// Start makes a container and returns once its program runs. On error nothing of
// it is left, and the error is a *box.Error where a step failed.
func (c *Client) Start(ctx context.Context, s *box.Spec, l *Launch, stdio box.Stdio) (_ *box.Proc, err error) {
	if c.Has(s.ID) { // of a start that was cut off
		if err := c.Delete(s.ID); err != nil {
			return nil, err
		}
	}
	if err := c.makeFolder(s); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Delete(s.ID))
		}
	}()
	lock, err := c.lock(s.ID, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	proc, err := c.start(ctx, s, l, stdio, lock)
	return proc, errors.Join(err, lock.Close()) // before it is deleted
}

// makeFolder makes a container's folder, through which the root of its user
// namespace must reach its own root.
func (c *Client) makeFolder(s *box.Spec) error {
	if err := os.MkdirAll(c.dir, 0o711); err != nil {
		return err
	}
	dir := c.folder(s.ID)
	if err := os.Mkdir(dir, 0o700); err != nil || s.Users == nil {
		return err
	}
	_, gid, _ := s.Users.Root()
	return errors.Join(os.Chown(dir, 0, int(gid)), os.Chmod(dir, 0o710))
}

func (c *Client) start(ctx context.Context, s *box.Spec, l *Launch, stdio box.Stdio, lock *os.File) (*box.Proc, error) {
	dir := c.folder(s.ID)
	run := &l.Runtime
	if run.Root == "" {
		run.Root = filepath.Join(c.dir, "state")
	}
	run.Systemd = s.Cgroup.Scope != ""
	if err := writeJSON(filepath.Join(dir, "runtime.json"), run); err != nil {
		return nil, err
	}
	mounts, err := c.boxes.Stage(s, dir)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, box.StagedRoot)
	who, err := box.Identify(root, &s.Process)
	if err != nil {
		return nil, err
	}
	at, err := c.place(s)
	if err != nil {
		return nil, &box.Error{Step: box.StepCgroup, Subject: s.ID, Message: "cannot set up the container's cgroup: " + err.Error(), ExitCode: 125}
	}
	told := config(s, l, root, mounts, who, at.told)
	if at.systemd {
		told.Annotations = maps.Clone(told.Annotations)
		if told.Annotations == nil {
			told.Annotations = map[string]string{}
		}
		told.Annotations[crunSubgroup] = ""
	}
	if s.Init {
		if err := c.addInit(told, s.FileLabel, dir); err != nil {
			return nil, err
		}
	}
	born, release, err := c.boxes.Birthplace(s)
	if err != nil {
		return nil, err
	}
	defer release()
	if born > 0 { // its network namespace was filled
		s.Namespaces.User = box.Namespace{Mode: box.NamespaceJoin, Path: fmt.Sprintf("/proc/%d/ns/user", born)}
	}
	held, err := namespaces(told, s)
	defer func() {
		for _, f := range held {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(dir, "config.json"), told); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	q := &making{runtime: run, id: s.ID, dir: dir, verb: "create", args: []string{"--bundle", dir}, stdio: stdio, process: &s.Process, lock: lock}
	proc, err := q.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := (&call{runtime: run, dir: dir, verb: "start"}).run(ctx, s.ID); err != nil {
		end(proc)
		return nil, err
	}
	proc.CgroupPaths = c.groups.Paths(at.parent, at.leaf)
	return proc, nil
}

// place is where a container's cgroup is to be, and how its runtime is told.
type place struct {
	parent, leaf, told string
	systemd            bool
}

// crunSubgroup names a group that crun makes inside a scope; "": none.
const crunSubgroup = "run.oci.systemd.subgroup"

// place makes the cgroup's parent; a scope and its slice are made by systemd, which
// the runtime asks.
func (c *Client) place(s *box.Spec) (place, error) {
	g := &s.Cgroup
	if g.Scope == "" {
		parent, err := c.groups.Place(g.Parent, g.Foreign)
		return place{parent: parent, leaf: s.ID, told: filepath.Join(parent, s.ID)}, err
	}
	slice := filepath.Base(g.Parent)
	if slice == "/" {
		slice = "-.slice" // systemd.special(7)
	}
	prefix, name, _ := strings.Cut(strings.TrimSuffix(g.Scope, ".scope"), "-")
	return place{parent: g.Parent, leaf: g.Scope, told: slice + ":" + prefix + ":" + name, systemd: true}, nil
}

// end gives up a process that was made.
func end(p *box.Proc) {
	_ = unix.PidfdSendSignal(rawFD(p.PidFD), unix.SIGKILL, nil, 0) // it may have ended
	p.PidFD.Close()
	if p.Console != nil {
		p.Console.Close()
	}
}

// initPath is where a container with --init has it, as with Docker.
const initPath = "/sbin/docker-init"

// addInit has the tiny init be process 1. It is bound into the container, where
// it may run whatever the flags of the exec root's file system are.
func (c *Client) addInit(told *specs.Spec, label, dir string) error {
	f, err := c.boxes.InitFile()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", rawFD(f)))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "init")
	if err := os.WriteFile(path, text, 0o755); err != nil {
		return err
	}
	if label != "" {
		if err := unix.Setxattr(path, "security.selinux", []byte(label), 0); err != nil {
			return fmt.Errorf("the SELinux label %q: %w", label, err)
		}
	}
	told.Mounts = append(told.Mounts, specs.Mount{Destination: initPath, Type: box.MountBind, Source: path, Options: []string{"bind", "ro", "nosuid", "nodev", "exec"}})
	told.Process.Args = append([]string{initPath, told.Process.Args[0]}, told.Process.Args...)
	return nil
}

// Exec starts another program in a container that runs, whose cgroup is at
// groups, in the group that the process names where the runtime can do that.
func (c *Client) Exec(ctx context.Context, id string, groups map[string]string, p *box.Process, stdio box.Stdio) (_ *box.Proc, err error) {
	run, err := c.runtimeOf(id)
	if err != nil {
		return nil, err
	}
	dir := c.folder(id)
	who, err := box.Identify(filepath.Join(dir, box.StagedRoot), p)
	if err != nil {
		return nil, err
	}
	lock, err := c.lock(id, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	file, err := os.CreateTemp(dir, "exec-*.json")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(json.NewEncoder(file).Encode(process(p, who)), file.Close()); err != nil {
		return nil, err
	}
	args := []string{"--detach", "--process", file.Name()}
	if at := c.inner(ctx, run, groups, p.Group); at != "" {
		var made string
		if made, err = cgroup.MakeInner(groups, p.Group); err != nil {
			return nil, err
		}
		args = append(args, "--cgroup", at)
		defer func() {
			if err != nil {
				cgroup.RemoveInner(made)
			}
		}()
	}
	q := &making{runtime: run, id: id, dir: dir, verb: "exec", args: args, stdio: stdio, process: p, lock: lock}
	return q.run(ctx)
}

// helpTime is how long a runtime may take to say what it can do.
const helpTime = 5 * time.Second

// inner is what an exec's runtime is told of its group; "": it can be in the
// container's only.
func (c *Client) inner(ctx context.Context, run *Runtime, groups map[string]string, name string) string {
	hierarchy, ok := cgroup.InnerHierarchy(groups)
	if !ok || name == "" {
		return ""
	}
	help, known := c.helps.Load(run.Path)
	if !known {
		ctx, cancel := context.WithTimeout(ctx, helpTime)
		defer cancel()
		argv := append(slices.Clone(run.Args), "exec", "--help")
		text, err := exec.CommandContext(ctx, run.Path, argv...).Output()
		var exit *exec.ExitError
		switch {
		case err != nil && (ctx.Err() != nil || !errors.As(err, &exit)): // it may be busy, or replaced just now: the next exec asks again
			c.log.Warn("a runtime does not say what its exec can do: this one has no group of its own", "runtime", run.Path, "error", err)
			return ""
		case err != nil: // what it cannot say it cannot do
			text = nil
		}
		help, _ = c.helps.LoadOrStore(run.Path, string(text))
	}
	switch text := help.(string); {
	case hierarchy == "" && strings.Contains(text, "--cgroup"):
		return name
	case hierarchy != "" && strings.Contains(text, "[<controller>:]<cgroup>"): // as runc has it
		return hierarchy + ":" + name
	}
	return ""
}

// Kill sends a signal to a container's first process.
func (c *Client) Kill(id string, sig unix.Signal) error {
	return c.change(id, "kill", nil, strconv.Itoa(int(sig)))
}

// Pause has all processes of a container stand still; Resume has them go on.
func (c *Client) Pause(id string) error { return c.change(id, "pause", nil) }

// Resume is the end of Pause.
func (c *Client) Resume(id string) error { return c.change(id, "resume", nil) }

// Update changes those limits of a container that are set.
func (c *Client) Update(id string, r *box.Resources) error {
	if r.HugePages != nil { // the update of runc and crun passes them over
		return errors.New("a runtime cannot change the limits of huge pages of a container that runs: stop it first")
	}
	file, err := os.CreateTemp(c.folder(id), "update-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := errors.Join(json.NewEncoder(file).Encode(resources(r)), file.Close()); err != nil {
		return err
	}
	return c.change(id, "update", []string{"--resources", file.Name()})
}

// change has a container's runtime do something to it.
func (c *Client) change(id, verb string, options []string, after ...string) error {
	run, err := c.runtimeOf(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), changeTime)
	defer cancel()
	return (&call{runtime: run, dir: c.folder(id), verb: verb, args: options}).run(ctx, append([]string{id}, after...)...)
}

// Delete takes away all that a container has here and at its runtime, which kills
// it if it runs. One that is not there is no error.
func (c *Client) Delete(id string) error {
	if !c.Has(id) {
		return nil
	}
	lock, err := c.lock(id, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	dir := c.folder(id)
	var gone error
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil { // the runtime was asked for it
		if gone = c.change(id, "delete", []string{"--force"}); gone != nil {
			c.log.Warn("a runtime could not delete its container: what is left of it is ended and removed", "container", id, "error", gone)
		}
	}
	if err := box.Unstage(dir); err != nil {
		return fmt.Errorf("unmount the root of container %s: %w", id, err)
	}
	// By name and not deeper: nothing that is mounted can be reached.
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// All are the containers that have something here.
func (c *Client) All() []string {
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return nil // there never was one
	}
	var ids []string
	for _, e := range list {
		if n := e.Name(); len(n) == 64 && strings.Trim(n, "0123456789abcdef") == "" {
			ids = append(ids, n)
		}
	}
	return ids
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
