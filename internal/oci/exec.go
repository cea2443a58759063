package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/cgroup"
)

// execOptions are the flags of exec.
type execOptions struct {
	process, console, pidFile, cwd, user, label, apparmor, cgroup string
	env, caps, groups                                             texts
	terminal, detach, noNewPrivileges, ignorePaused               bool
}

// exec runs one more program in a running container. The code is its exit code,
// or 0 once it runs detached.
func (r *call) exec(id string, o *execOptions, args []string) (code int, err error) {
	c, err := r.open(id)
	if err != nil {
		return 255, err
	}
	proc, err := r.join(c, o, args)
	c.close() // others may stop it while this runs
	if err != nil {
		return 255, err
	}
	defer proc.PidFD.Close()
	if err := handOver(proc, o.console, o.pidFile); err != nil {
		_ = proc.Kill()
		wait(proc.PID)
		return 255, err
	}
	if o.detach {
		return 0, nil
	}
	return attend(proc), nil
}

func (r *call) join(c *container, o *execOptions, args []string) (*box.Proc, error) {
	switch s := c.status(); s {
	case specs.StateRunning:
	case statusPaused:
		if !o.ignorePaused {
			return nil, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
		}
	case specs.StateStopped:
		return nil, errors.New("cannot exec in a stopped container")
	default:
		return nil, fmt.Errorf("cannot exec in a container that is %s", s)
	}
	config, err := load(c.Bundle)
	if err != nil {
		return nil, err
	}
	if config.Process == nil || config.Linux == nil {
		return nil, errors.New("the bundle of the container has lost its process or linux part")
	}
	spec, err := o.spec(config.Process, args)
	if err != nil {
		return nil, err
	}
	p, err := process(spec, config.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	p.OwnRoot = c.Beside != nil
	if p.Group, err = c.inner(o.cgroup); err != nil {
		return nil, err
	}
	if err := checkConsole(p.Terminal, o.console, o.detach); err != nil {
		return nil, err
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	rt, err := newBox()
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	return rt.Exec(context.Background(), c.Pid, pidfd, c.CgroupPaths, p, standard(p.Terminal))
}

// inner is the group inside the container's own that --cgroup asks for: one that
// is there, in the hierarchy in which an exec can have one.
func (c *container) inner(at string) (string, error) {
	if at == "" {
		return "", nil
	}
	controller, name, both := strings.Cut(at, ":")
	if !both {
		controller, name = "", at
	}
	key, ok := cgroup.InnerHierarchy(c.CgroupPaths)
	switch {
	case !ok || controller != key:
		return "", fmt.Errorf("exec: --cgroup %s is not supported by this runtime here: write --cgroup %s", at, strings.TrimPrefix(key+":NAME", ":"))
	case name == "" || name == "." || name == ".." || strings.Contains(name, "/"):
		return "", fmt.Errorf("exec: --cgroup %s: the name of a group just below the container's is needed", at)
	}
	if _, err := os.Stat(cgroup.Inner(c.CgroupPaths, name)); err != nil {
		return "", fmt.Errorf("exec: --cgroup %s: %w", at, err)
	}
	return name, nil
}

// spec is the process of a file, or the container's own with the flags' changes.
func (o *execOptions) spec(own *specs.Process, args []string) (*specs.Process, error) {
	if o.process != "" {
		if other := o.others(); other != "" || len(args) > 0 {
			return nil, fmt.Errorf("exec: --process %s says all of the process: leave out %s", o.process, cmp.Or(other, "the command"))
		}
		f, err := os.Open(o.process)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		p := &specs.Process{}
		if err := decode(f, p); err != nil {
			return nil, fmt.Errorf("%s: %w", o.process, err)
		}
		if o.terminal && !p.Terminal {
			return nil, fmt.Errorf("exec: --tty, but the process of %s has no terminal", o.process)
		}
		return p, nil
	}
	if len(args) == 0 {
		return nil, errors.New("exec: a container and a command are needed, or --process")
	}
	p := *own
	p.Args, p.Terminal = args, o.terminal
	p.Env = append(append([]string{}, p.Env...), o.env...)
	p.NoNewPrivileges = p.NoNewPrivileges || o.noNewPrivileges
	if o.cwd != "" {
		p.Cwd = o.cwd
	}
	if o.label != "" {
		p.SelinuxLabel = o.label
	}
	if o.apparmor != "" {
		p.ApparmorProfile = o.apparmor
	}
	if err := o.identity(&p); err != nil {
		return nil, err
	}
	if len(o.caps) > 0 {
		have := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			have = *p.Capabilities
		}
		for _, set := range []*[]string{&have.Bounding, &have.Effective, &have.Permitted} {
			*set = append(append([]string{}, *set...), o.caps...)
		}
		p.Capabilities = &have
	}
	return &p, nil
}

// others is a flag that says something of the process, or "".
func (o *execOptions) others() string {
	for _, f := range []struct {
		name string
		set  bool
	}{{"--cwd", o.cwd != ""}, {"--user", o.user != ""}, {"--process-label", o.label != ""}, {"--apparmor", o.apparmor != ""}, {"--env", len(o.env) > 0},
		{"--cap", len(o.caps) > 0}, {"--additional-gids", len(o.groups) > 0}, {"--no-new-privs", o.noNewPrivileges}} {
		if f.set {
			return f.name
		}
	}
	return ""
}

func (o *execOptions) identity(p *specs.Process) error {
	number := func(text string) (uint32, error) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is no number of a user or group: names are not looked up", text)
		}
		return uint32(n), nil
	}
	var err error
	if o.user != "" {
		uid, gid, both := strings.Cut(o.user, ":")
		if p.User.UID, err = number(uid); err != nil {
			return err
		}
		if both {
			if p.User.GID, err = number(gid); err != nil {
				return err
			}
		}
	}
	for _, g := range o.groups {
		n, err := number(g)
		if err != nil {
			return err
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, n)
	}
	return nil
}
