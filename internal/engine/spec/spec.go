// Package spec turns a request and an image's configuration into the launch
// spec of a box. It reads nothing of the host but the devices that a container
// gets, the numbers of the block devices that are limited, which processors and
// memory nodes are online, and which throttles there are to hide.
package spec

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/box"
)

// Merge completes a request's configuration with the image's, by Docker's rules.
func Merge(c container.Config, image dockerspec.DockerOCIImageConfig) (container.Config, error) {
	if c.User == "" {
		c.User = image.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = image.WorkingDir
	}
	if c.WorkingDir != "" && !path.IsAbs(c.WorkingDir) {
		return c, invalid("the working directory '%s' is invalid, it needs to be an absolute path: write /%s", c.WorkingDir, c.WorkingDir)
	}
	if c.StopSignal == "" {
		c.StopSignal = image.StopSignal
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = image.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = image.Entrypoint
		}
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	c.Env = slices.Concat(c.Env, slices.DeleteFunc(slices.Clone(image.Env), func(v string) bool {
		return slices.ContainsFunc(c.Env, func(own string) bool { return variable(own) == variable(v) })
	}))
	labels := map[string]string{}
	for _, from := range []map[string]string{image.Labels, c.Labels} {
		for k, v := range from {
			labels[k] = v
		}
	}
	c.Labels = labels
	c.Healthcheck = mergeCheck(c.Healthcheck, image.Healthcheck)
	volumes := map[string]struct{}{}
	for _, from := range []map[string]struct{}{image.Volumes, c.Volumes} {
		for k := range from {
			volumes[k] = struct{}{}
		}
	}
	c.Volumes = volumes
	ports := network.PortSet{}
	for p := range image.ExposedPorts {
		parsed, err := network.ParsePort(p)
		if err != nil {
			return c, invalid("the image exposes an invalid port %q: %v", p, err)
		}
		ports[parsed] = struct{}{}
	}
	for p := range c.ExposedPorts {
		ports[p] = struct{}{}
	}
	c.ExposedPorts = ports
	if len(c.Entrypoint)+len(c.Cmd) == 0 {
		return c, invalid("no command specified: the image has none, so write one after its name")
	}
	return c, nil
}

// mergeCheck completes a health check with the image's.
func mergeCheck(asked, image *container.HealthConfig) *container.HealthConfig {
	if asked == nil || image == nil {
		if asked == nil {
			return image
		}
		return asked
	}
	h := *asked
	if len(h.Test) == 0 {
		h.Test = image.Test
	}
	for _, d := range []struct{ to, from *time.Duration }{
		{&h.Interval, &image.Interval}, {&h.Timeout, &image.Timeout}, {&h.StartPeriod, &image.StartPeriod}, {&h.StartInterval, &image.StartInterval},
	} {
		if *d.to == 0 {
			*d.to = *d.from
		}
	}
	if h.Retries == 0 {
		h.Retries = image.Retries
	}
	return &h
}

// MergeEnv lets entries of b replace those of a, in their places. An entry of
// b without "=" removes the variable.
func MergeEnv(a, b []string) []string {
	env := slices.Clone(a)
	for _, e := range b {
		i := slices.IndexFunc(env, func(v string) bool { return variable(v) == variable(e) })
		switch set := strings.Contains(e, "="); {
		case i >= 0 && set:
			env[i] = e
		case i >= 0:
			env = slices.Delete(env, i, i+1)
		case set:
			env = append(env, e)
		}
	}
	return env
}

func variable(entry string) string {
	name, _, _ := strings.Cut(entry, "=")
	return name
}

// Input is what the launch spec of a container is made from.
type Input struct {
	ID         string
	Config     *container.Config // merged
	HostConfig *container.HostConfig
	Root       box.Root
	Mounts     []box.Mount // binds, volumes, tmpfs; in any order
	Net        box.Namespace
	// PID and IPC are the namespaces of the containers that the modes name.
	PID, IPC     *box.Owner
	Users        *box.Users // of a user namespace; nil: the host's
	UsersOf      *box.Owner // whose user namespace that is; nil: its own
	CgroupParent string
	Foreign      string // cgroup-parent of the daemon, for containers without one of their own; "": CgroupParent
	Security     *Security
}

// Build makes the launch spec.
func Build(in Input) (box.Spec, error) {
	h := in.HostConfig
	caps, err := Capabilities(h.CapAdd, h.CapDrop, h.Privileged)
	if err != nil {
		return box.Spec{}, err
	}
	s := box.Spec{
		ID: in.ID, Hostname: in.Config.Hostname, Domainname: in.Config.Domainname, Root: in.Root, Users: in.Users, Sysctl: sysctls(h, in.Users),
		Namespaces: namespaces(in),
		Cgroup:     box.Cgroup{Parent: in.CgroupParent, AllDevices: h.Privileged},
		// Another's pid namespace has a process 1 already.
		Init: h.Init != nil && *h.Init && h.PidMode.IsPrivate(),
	}
	if h.UTSMode.IsHost() {
		s.Hostname, s.Domainname = "", ""
	}
	if s.Cgroup.Resources, err = Resources(&h.Resources); err != nil {
		return s, err
	}
	if s.Cgroup.Resources.HugePages, err = HugePages(in.Config.Labels[HugePagesLabel]); err != nil {
		return s, err
	}
	if p := cmp.Or(h.CgroupParent, in.Foreign); p != "" {
		s.Cgroup.Parent, s.Cgroup.Foreign = p, true
	}
	s.Root.ReadOnly = h.ReadonlyRootfs
	s.Mounts = append(withoutReplaced(defaultMounts(h, in), in.Mounts), in.Mounts...)
	sort.SliceStable(s.Mounts[:], func(i, j int) bool { return depth(s.Mounts[i].Target) < depth(s.Mounts[j].Target) })
	s.Mounts = lastOfEach(s.Mounts)
	s.MaskedPaths, s.ReadonlyPaths = HiddenPaths(h)
	if s.Devices, s.Cgroup.DeviceRules, err = devices(h); err != nil {
		return s, err
	}
	s.Process = Process(in.Config, h, caps)
	return s, nil
}

// Process is the first process, also the pattern of execs.
func Process(c *container.Config, h *container.HostConfig, caps []string) box.Process {
	p := box.Process{
		Args: append(append([]string{}, c.Entrypoint...), c.Cmd...), Env: environment(c), Cwd: c.WorkingDir, User: c.User,
		AdditionalGroups: h.GroupAdd, Terminal: c.Tty, OpenStdin: c.OpenStdin, AttachStdout: true, AttachStderr: true,
		ConsoleHeight: uint16(h.ConsoleSize[0]), ConsoleWidth: uint16(h.ConsoleSize[1]),
		Capabilities: box.Capabilities{Bounding: caps, Effective: caps, Permitted: caps},
		Umask:        h.Umask,
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	adj := h.OomScoreAdj // 0 too: the engine's own may be lower
	p.OOMScoreAdj = &adj
	for _, u := range h.Ulimits {
		p.Rlimits = append(p.Rlimits, box.Rlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return p
}

// sysctls are those asked for. A network of its own also allows ping and low
// ports to every user, as Docker's does: what the default capabilities allow
// to root.
func sysctls(h *container.HostConfig, mapped *box.Users) map[string]string {
	all := map[string]string{}
	if h.NetworkMode.IsPrivate() {
		last := uint32(math.MaxInt32)
		if mapped != nil { // the kernel takes only ids that the namespace has
			last = mapped.GIDs[0].Size - 1
		}
		all["net.ipv4.ping_group_range"], all["net.ipv4.ip_unprivileged_port_start"] = fmt.Sprintf("0 %d", last), "0"
	}
	maps.Copy(all, h.Sysctls)
	return all
}

func environment(c *container.Config) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if c.Hostname != "" {
		env = append(env, "HOSTNAME="+c.Hostname)
	}
	if c.Tty {
		env = append(env, "TERM=xterm")
	}
	return MergeEnv(env, c.Env)
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
