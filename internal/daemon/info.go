package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"hezi/internal/box/apparmor"
	"hezi/internal/box/cgroup"
	"hezi/internal/daemon/config"
	"hezi/internal/engine"
	"hezi/internal/engine/labels"
	"hezi/internal/image"
	"hezi/internal/logs/options"
	"hezi/internal/version"
)

// Info answers GET /info.
func (s *systemRoom) Info(ctx context.Context) (system.Info, error) {
	c := s.conf()
	proxy := c.Proxy.Environment()
	name, osVersion := operatingSystem()
	host, err := os.Hostname()
	if err != nil {
		return system.Info{}, fmt.Errorf("the machine's name: %w", err)
	}
	info := system.Info{
		ID: s.id, Name: host,
		Driver: s.storage.Choice.Driver, DriverStatus: s.storage.status(ctx, c.DataRoot),
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: options.Drivers(),
		},
		Debug: c.Debug, NFd: openDescriptors(), NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().Format(time.RFC3339Nano),
		LoggingDriver: c.LogDriver, NEventsListener: s.events.Listeners(),
		KernelVersion: kernelRelease(), OperatingSystem: name, OSVersion: osVersion, OSType: "linux", Architecture: machine(),
		NCPU: runtime.NumCPU(), MemTotal: memory(),
		IndexServerAddress: "https://index.docker.io/v1/", RegistryConfig: registryConfig(c),
		DockerRootDir: c.DataRoot, Labels: append([]string{}, c.Labels...),
		HTTPProxy: withoutPassword(proxy.HTTP), HTTPSProxy: withoutPassword(proxy.HTTPS), NoProxy: proxy.No,
		ServerVersion:  version.Version,
		Runtimes:       s.runtimes.List(s.keeperPath),
		DefaultRuntime: s.runtimes.Default(), InitBinary: "hezi-tiny",
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: c.LiveRestore, IPv4Forwarding: sysctl("net.ipv4.ip_forward"),
		SecurityOptions: securityOptions(c), CDISpecDirs: c.CDIDirs(),
		FirewallBackend:  &system.FirewallInfo{Driver: "nftables"},
		ContainerdCommit: system.Commit{ID: "none"}, RuncCommit: system.Commit{ID: "none"}, InitCommit: system.Commit{ID: "none"},
	}
	if info.CgroupDriver = "cgroupfs"; c.SystemdCgroups() {
		info.CgroupDriver = "systemd"
	}
	limits(&info)
	s.discover(&info)
	if w := s.storage.Choice.Warning(); w != "" {
		info.Warnings = append(info.Warnings, "WARNING: "+w)
	}
	if _, why := apparmor.Supported(); why != "" {
		info.Warnings = append(info.Warnings, "WARNING: "+why)
	}
	for _, w := range s.warnings() {
		info.Warnings = append(info.Warnings, "WARNING: "+w)
	}
	return info, s.count(ctx, &info)
}

// discover lists the devices that CDI can give.
func (s *systemRoom) discover(info *system.Info) {
	names, warnings := s.devices.Devices()
	info.DiscoveredDevices = []system.DeviceInfo{}
	for _, n := range names {
		info.DiscoveredDevices = append(info.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: n})
	}
	for _, w := range warnings {
		info.Warnings = append(info.Warnings, "WARNING: "+w)
	}
}

// limits says what the kernel's cgroups can do, and what is missing.
func limits(info *system.Info) {
	g, err := cgroup.Probe()
	if err != nil {
		info.Warnings = append(info.Warnings, "WARNING: "+err.Error())
		return
	}
	info.CgroupVersion = strconv.Itoa(g.Version)
	info.MemoryLimit, info.SwapLimit, info.OomKillDisable = g.Memory, g.Swap, g.OOMKillDisable
	info.CPUCfsPeriod, info.CPUCfsQuota, info.CPUShares = g.CPUQuota, g.CPUQuota, g.CPUShares
	info.CPUSet, info.PidsLimit = g.Cpuset, g.Pids
	for _, w := range lacks(g, "/proc/cgroups") {
		info.Warnings = append(info.Warnings, "WARNING: "+w)
	}
}

// count fills the numbers of containers and images.
func (s *systemRoom) count(ctx context.Context, info *system.Info) error {
	if s.backend.Views == nil || s.backend.Images == nil {
		info.Warnings = append(info.Warnings, "WARNING: this build of hezid has no rooms for containers and images: their numbers are not known")
		return nil
	}
	list, err := s.backend.Views.List(ctx, engine.ListOptions{All: true})
	if err != nil {
		return err
	}
	info.Containers = len(list)
	for _, c := range list {
		switch c.State {
		case container.StateRunning, container.StateRestarting:
			info.ContainersRunning++
		case container.StatePaused:
			info.ContainersPaused++
		default:
			info.ContainersStopped++
		}
	}
	images, err := s.backend.Images.List(ctx, image.ListOptions{})
	info.Images = len(images)
	return err
}

// securityOptions in Docker's syntax.
func securityOptions(c *config.Config) []string {
	var out []string
	if ok, _ := apparmor.Supported(); ok {
		out = append(out, "name=apparmor")
	}
	profile := "builtin"
	if c.SeccompProfile != "" {
		profile = c.SeccompProfile
	}
	out = append(out, "name=seccomp,profile="+profile)
	if labels.Enabled() {
		out = append(out, "name=selinux")
	}
	out = append(out, "name=cgroupns") // each container has one of its own, on both versions
	if c.UsernsRemap != "" && c.UsernsRemap != "root" || strings.HasPrefix(c.Userns, "auto") {
		out = append(out, "name=userns")
	}
	if c.NoNewPrivileges {
		out = append(out, "name=no-new-privileges")
	}
	return out
}

// registryConfig shows mirrors and insecure registries; loopback is always
// among them, as with Docker.
func registryConfig(c *config.Config) *registry.ServiceConfig {
	out := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")},
		IndexConfigs:          map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: shown(c.RegistryMirrors), Secure: true, Official: true}},
		Mirrors:               shown(c.RegistryMirrors),
	}
	for _, r := range c.InsecureRegistries {
		if p, err := netip.ParsePrefix(r); err == nil {
			out.InsecureRegistryCIDRs = append(out.InsecureRegistryCIDRs, p)
			continue
		}
		out.IndexConfigs[r] = &registry.IndexInfo{Name: r, Mirrors: []string{}}
	}
	for host, list := range c.MirrorsOf {
		if out.IndexConfigs[host] == nil {
			out.IndexConfigs[host] = &registry.IndexInfo{Name: host, Secure: true}
		}
		out.IndexConfigs[host].Mirrors = shown(list)
	}
	return out
}

// shown are mirrors as Docker shows them: its URLs end with a slash.
func shown(mirrors []string) []string {
	out := []string{}
	for _, m := range mirrors {
		if strings.Contains(m, "://") {
			m = strings.TrimSuffix(m, "/") + "/"
		}
		out = append(out, m)
	}
	return out
}

// withoutPassword hides the credentials of a proxy's URL.
func withoutPassword(u string) string {
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		scheme, rest = "", u
	}
	i := strings.LastIndex(rest, "@")
	switch {
	case i < 0:
		return u
	case ok:
		scheme += "://"
	}
	return scheme + "xxxxx:xxxxx" + rest[i:]
}

// Version answers GET /version.
func (s *systemRoom) Version(ctx context.Context) (system.VersionResponse, error) {
	v := system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Hezi"},
		Version:  version.Version, APIVersion: version.API, MinAPIVersion: version.MinAPI,
		Os: runtime.GOOS, Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: kernelRelease(),
	}
	v.Components = []system.ComponentVersion{{Name: "Engine", Version: version.Version, Details: map[string]string{
		"ApiVersion": version.API, "MinAPIVersion": version.MinAPI, "Os": v.Os, "Arch": v.Arch,
		"GoVersion": v.GoVersion, "KernelVersion": v.KernelVersion, "Experimental": "false",
	}}}
	keeper := system.ComponentVersion{Name: "hezi-keeper", Version: "not running"}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if info, err := s.keeper.Info(ctx); err == nil {
		keeper.Version = info.Version
		keeper.Details = map[string]string{"Protocol": fmt.Sprint(info.ProtocolVersion), "Containers": fmt.Sprint(info.Containers)}
	}
	v.Components = append(v.Components, keeper)
	return v, nil
}
