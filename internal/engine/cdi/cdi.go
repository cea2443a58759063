// Package cdi gives containers devices by the Container Device Interface: what a
// device needs is in specifications that its vendor's tools write on the host
// (https://tags.cncf.io/container-device-interface). They are read when they
// are asked for, so that they cost nothing otherwise.
package cdi

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"hezi/internal/box"
)

// Registry has the specifications of some directories.
type Registry struct {
	dirs []string

	mu    sync.Mutex // guards what follows
	cache *cdi.Cache
}

// New is a registry of the specifications in dirs, later ones before earlier
// ones; without any, every request is refused. It reads nothing.
func New(dirs []string) *Registry { return &Registry{dirs: dirs} }

// read gives the specifications as they are now.
func (r *Registry) read() (*cdi.Cache, error) {
	if r == nil || len(r.dirs) == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("CDI device injection failed: no CDI specification directories specified: set cdi-spec-dirs of the daemon")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cache != nil {
		_ = r.cache.Refresh() // what is wrong with other specifications does not matter; info shows it
		return r.cache, nil
	}
	c, err := cdi.NewCache(cdi.WithSpecDirs(r.dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("CDI registry initialization failure: %w", err)
	}
	r.cache = c
	return c, nil
}

// Devices are the names of all devices, and what is wrong with specifications.
func (r *Registry) Devices() (names, warnings []string) {
	if r == nil || len(r.dirs) == 0 {
		return nil, nil
	}
	c, err := r.read()
	if err != nil {
		return nil, []string{err.Error()}
	}
	for path, errs := range c.GetErrors() {
		for _, err := range errs {
			if !os.IsNotExist(err) {
				warnings = append(warnings, fmt.Sprintf("CDI: Error associated with spec file %s: %v", path, err))
			}
		}
	}
	slices.Sort(warnings)
	return c.ListDevices(), warnings
}

// Edits are what devices add to a container.
type Edits struct {
	Env    []string
	Groups []string
	Mounts []box.Mount
	// Hooks are programs, most of them the host's, that run beside the container's life.
	Hooks *specs.Hooks

	devices []box.Device
	rules   []box.DeviceRule
}

// Edits are what a container's requests (--gpus, --device VENDOR/CLASS=NAME) add.
func (r *Registry) Edits(requests []container.DeviceRequest) (*Edits, error) {
	e := &Edits{}
	if len(requests) == 0 {
		return e, nil
	}
	oci := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	for _, q := range requests {
		names, err := r.names(q)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			continue
		}
		c, err := r.read()
		if err != nil {
			return nil, err
		}
		if _, err := c.InjectDevices(oci, names...); err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage("CDI device injection failed: " + err.Error())
		}
	}
	return e, e.take(oci)
}

// gpus are the kinds of devices that --gpus means, the first that there is.
var gpus = []string{"nvidia.com/gpu", "amd.com/gpu"}

// names are the qualified names of the devices of one request.
func (r *Registry) names(q container.DeviceRequest) ([]string, error) {
	bad := func(format string, args ...any) error {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
	}
	if q.Driver == "cdi" {
		switch {
		case q.Count != 0:
			return nil, bad("unexpected count in CDI device request")
		case len(q.Options) > 0:
			return nil, bad("unexpected options in CDI device request")
		}
		return q.DeviceIDs, nil
	}
	kind := ""
	if q.Driver == "nvidia" || q.Driver == "" && asksGPU(q.Capabilities) {
		have, _ := r.Devices()
		for _, k := range gpus {
			if slices.ContainsFunc(have, func(n string) bool { return strings.HasPrefix(n, k+"=") }) && (q.Driver == "" || strings.HasPrefix(k, q.Driver)) {
				kind = k
				break
			}
		}
	}
	if kind == "" { // Docker's words
		return nil, bad("could not select device driver %q with capabilities: %v: GPUs are given by CDI, and no specification names one: make it by the vendor's tool, such as nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml", q.Driver, q.Capabilities)
	}
	if len(q.Options) > 0 {
		return nil, bad("device request options %v are not known to CDI: leave them out", q.Options)
	}
	if q.Count != 0 && len(q.DeviceIDs) > 0 {
		return nil, bad("cannot set both Count and DeviceIDs on device request")
	}
	ids := q.DeviceIDs
	switch {
	case q.Count < 0:
		ids = []string{"all"}
	case q.Count > 1<<10:
		return nil, bad("%d devices are asked for: at most 1024 can be", q.Count)
	case q.Count > 0:
		for i := range q.Count {
			ids = append(ids, strconv.Itoa(i))
		}
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		if names[i] = id; !strings.Contains(id, "=") {
			names[i] = kind + "=" + id
		}
	}
	return names, nil
}

// asksGPU says whether one of the sets of capabilities has a GPU.
func asksGPU(sets [][]string) bool {
	return slices.ContainsFunc(sets, func(set []string) bool { return slices.Contains(set, "gpu") })
}

// take reads what was injected. What this engine cannot give is an error, not
// left out: the device would not work.
func (e *Edits) take(s *specs.Spec) error {
	switch {
	case s.Linux.IntelRdt != nil:
		return refused("a class of Intel RDT, which Hezi does not set")
	case len(s.Linux.NetDevices) > 0:
		return refused("a network device, which Hezi does not move")
	}
	e.Env, e.Hooks = s.Process.Env, s.Hooks
	for _, g := range s.Process.User.AdditionalGids {
		e.Groups = append(e.Groups, strconv.FormatUint(uint64(g), 10))
	}
	for _, d := range s.Linux.Devices {
		node := box.Device{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, Mode: 0o666}
		if d.Type == "u" {
			node.Type = "c"
		}
		if node.Type != "c" && node.Type != "b" {
			return refused(fmt.Sprintf("the device %s of the type %q, which is neither a character nor a block device", d.Path, d.Type))
		}
		if d.FileMode != nil {
			node.Mode = uint32(d.FileMode.Perm())
		}
		if d.UID != nil {
			node.UID = *d.UID
		}
		if d.GID != nil {
			node.GID = *d.GID
		}
		e.devices = append(e.devices, node)
	}
	for _, d := range s.Linux.Resources.Devices {
		if d.Access == "" || d.Major == nil || d.Minor == nil {
			continue
		}
		e.rules = append(e.rules, box.DeviceRule{Type: d.Type, Major: *d.Major, Minor: *d.Minor, Access: d.Access})
	}
	for _, m := range s.Mounts {
		b, err := bind(m)
		if err != nil {
			return refused(err.Error())
		}
		e.Mounts = append(e.Mounts, b)
	}
	return nil
}

func refused(what string) error {
	return errdefs.ErrInvalidArgument.WithMessage("CDI device injection failed: the specification of the device asks for " + what)
}

// bind is a mount of a specification.
func bind(m specs.Mount) (box.Mount, error) {
	out := box.Mount{Type: box.MountBind, Source: m.Source, Target: m.Destination, Propagation: "rprivate"}
	if m.Type != "" && m.Type != "bind" && m.Type != "none" {
		return out, fmt.Errorf("a mount of the type %s at %s: only binds are known", m.Type, m.Destination)
	}
	for _, o := range m.Options {
		switch o {
		case "bind", "rw", "dev", "suid", "exec", "relatime":
		case "rbind":
			out.Recursive = true
		case "ro", "rro":
			out.ReadOnly = true
		case "nosuid":
			out.NoSuid = true
		case "nodev":
			out.NoDev = true
		case "noexec":
			out.NoExec = true
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			out.Propagation = o
		default:
			return out, fmt.Errorf("the option %q of the mount at %s, which is not known", o, m.Destination)
		}
	}
	return out, nil
}

// Apply adds the devices to a launch spec. A privileged container may use all
// devices anyway.
func (e *Edits) Apply(s *box.Spec) {
	s.Devices = append(s.Devices, e.devices...)
	if !s.Cgroup.AllDevices {
		s.Cgroup.DeviceRules = append(s.Cgroup.DeviceRules, e.rules...)
	}
	s.Process.AdditionalGroups = append(slices.Clip(s.Process.AdditionalGroups), e.Groups...)
}
