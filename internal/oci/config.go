package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/seccomp"
)

// maxConfig bounds a config.json, in bytes.
const maxConfig = 16 << 20

// load reads a bundle's configuration.
func load(bundle string) (*specs.Spec, error) {
	name := filepath.Join(bundle, "config.json")
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file config.json not found in %s: name the bundle with --bundle", bundle)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := &specs.Spec{}
	if err := decode(f, c); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func decode(r io.Reader, v any) error {
	text, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return err
	}
	if len(text) > maxConfig {
		return fmt.Errorf("it is longer than %d MiB", maxConfig>>20)
	}
	return json.Unmarshal(text, v)
}

// boxSpec is the box that a bundle describes, but for its cgroup; warn is told what
// has no effect.
func boxSpec(id, bundle string, c *specs.Spec, warn func(string)) (*box.Spec, error) {
	if err := checkSpec(c); err != nil {
		return nil, err
	}
	s := &box.Spec{
		ID: id, Hostname: c.Hostname, Domainname: c.Domainname, Sysctl: c.Linux.Sysctl,
		Root:        box.Root{Path: c.Root.Path, ReadOnly: c.Root.Readonly, AsIs: true, Propagation: c.Linux.RootfsPropagation},
		MaskedPaths: c.Linux.MaskedPaths, ReadonlyPaths: c.Linux.ReadonlyPaths, FileLabel: c.Linux.MountLabel,
	}
	if !filepath.IsAbs(s.Root.Path) {
		s.Root.Path = filepath.Join(bundle, s.Root.Path)
	}
	var err error
	if s.Namespaces, err = namespaces(c.Linux.Namespaces); err != nil {
		return nil, err
	}
	if s.Users, err = users(c.Linux, &s.Namespaces); err != nil {
		return nil, err
	}
	if c.Hostname != "" && s.Namespaces.UTS.Mode == box.NamespaceHost {
		return nil, errors.New("unable to set hostname without a private UTS namespace")
	}
	for i := range c.Mounts {
		m, err := mount(bundle, &c.Mounts[i], warn)
		if err != nil {
			return nil, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	for i := range c.Linux.Devices {
		d, err := device(&c.Linux.Devices[i])
		if err != nil {
			return nil, err
		}
		s.Devices = append(s.Devices, d)
	}
	p, err := process(c.Process, c.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	s.Process = *p
	return s, nil
}

// checkSpec refuses what the box does not have.
func checkSpec(c *specs.Spec) error {
	switch {
	case !strings.HasPrefix(c.Version, "1."):
		return fmt.Errorf("the bundle is of version %q of the OCI runtime specification: 1.x is understood", c.Version)
	case c.Process == nil:
		return errors.New("process property must not be empty")
	case c.Root == nil || c.Root.Path == "":
		return errors.New("root property must not be empty")
	case c.Linux == nil:
		return errors.New("the bundle has no linux part: it is for another operating system")
	}
	l := c.Linux
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"linux.netDevices", len(l.NetDevices) > 0}, {"linux.intelRdt", l.IntelRdt != nil},
		{"linux.memoryPolicy", l.MemoryPolicy != nil}, {"linux.timeOffsets", len(l.TimeOffsets) > 0},
		{"linux.personality", l.Personality != nil && (l.Personality.Domain != specs.PerLinux || len(l.Personality.Flags) > 0)},
		{"linux.rootfsPropagation " + l.RootfsPropagation, l.RootfsPropagation != "" && !slices.Contains(propagations, l.RootfsPropagation)},
		{"vm", c.VM != nil}, {"windows", c.Windows != nil},
	} {
		if f.set {
			return fmt.Errorf("the bundle's %s is not supported by this runtime", f.name)
		}
	}
	return nil
}

func device(d *specs.LinuxDevice) (box.Device, error) {
	out := box.Device{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, Mode: 0o666}
	switch d.Type {
	case "u":
		out.Type = "c"
	case "c", "b", "p":
	default:
		return out, fmt.Errorf("the device %s is of type %q: c, u, b and p can be made", d.Path, d.Type)
	}
	if d.FileMode != nil {
		out.Mode = uint32(*d.FileMode) & 0o7777
	}
	if d.UID != nil {
		out.UID = *d.UID
	}
	if d.GID != nil {
		out.GID = *d.GID
	}
	return out, nil
}

// process is the program of a container or of an exec.
func process(p *specs.Process, filter *specs.LinuxSeccomp) (*box.Process, error) {
	switch {
	case len(p.Args) == 0:
		return nil, errors.New("args must not be empty")
	case !path.IsAbs(p.Cwd):
		return nil, fmt.Errorf("cwd must be an absolute path, not %q", p.Cwd)
	case p.Scheduler != nil, p.IOPriority != nil, p.ExecCPUAffinity != nil:
		return nil, errors.New("the process's scheduler, ioPriority and execCPUAffinity are not supported by this runtime")
	}
	out := &box.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, User: fmt.Sprintf("%d:%d", p.User.UID, p.User.GID), Terminal: p.Terminal,
		NoNewPrivileges: p.NoNewPrivileges, OOMScoreAdj: p.OOMScoreAdj, AppArmorProfile: p.ApparmorProfile, SELinuxLabel: p.SelinuxLabel,
		Umask: p.User.Umask, AttachStdout: true, AttachStderr: true, OpenStdin: true,
	}
	for _, g := range p.User.AdditionalGids {
		out.AdditionalGroups = append(out.AdditionalGroups, strconv.FormatUint(uint64(g), 10))
	}
	if s := p.ConsoleSize; s != nil {
		out.ConsoleHeight, out.ConsoleWidth = uint16(min(s.Height, 1<<16-1)), uint16(min(s.Width, 1<<16-1))
	}
	if c := p.Capabilities; c != nil {
		out.Capabilities = box.Capabilities{Bounding: c.Bounding, Effective: c.Effective, Permitted: c.Permitted, Inheritable: c.Inheritable, Ambient: c.Ambient}
	}
	for _, l := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, box.Rlimit{Type: l.Type, Soft: l.Soft, Hard: l.Hard})
	}
	if filter == nil {
		return out, nil
	}
	if filter.ListenerPath != "" {
		return nil, errors.New("linux.seccomp.listenerPath (SCMP_ACT_NOTIFY) is not supported by this runtime")
	}
	text, err := json.Marshal(filter)
	if err != nil {
		return nil, err
	}
	profile, err := seccomp.Parse(text)
	if err == nil {
		out.Seccomp, out.SeccompFlags, err = seccomp.Compile(profile, out.Capabilities.Bounding, runtime.GOARCH)
	}
	return out, err
}
