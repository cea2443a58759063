package spec

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
)

// text writes a launch spec as lines: mounts as mount(8) has their options,
// everything else by its name, nothing that is not set.
func text(s box.Spec) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, m := range s.Mounts {
		var o []string
		for _, f := range []struct {
			name string
			set  bool
		}{{"ro", m.ReadOnly}, {"nosuid", m.NoSuid}, {"nodev", m.NoDev}, {"noexec", m.NoExec}, {"rec", m.Recursive}, {"copyup", m.CopyUp}, {m.Propagation, m.Propagation != ""}, {m.Data, m.Data != ""}} {
			if f.set {
				o = append(o, f.name)
			}
		}
		line("mount %s %s%s %s", m.Type, m.Source, m.Target, strings.Join(o, ","))
	}
	line("root readonly=%t", s.Root.ReadOnly)
	line("masked %s", strings.Join(slices.DeleteFunc(slices.Clone(s.MaskedPaths), func(p string) bool {
		return strings.HasSuffix(p, "/thermal_throttle") // as many as the machine has
	}), " "))
	line("readonly %s", strings.Join(s.ReadonlyPaths, " "))
	line("devices all=%t extra=%t", s.Cgroup.AllDevices, len(s.Devices) > 0)
	line("resources %+v", s.Cgroup.Resources)
	for _, k := range slices.Sorted(maps.Keys(s.Sysctl)) {
		line("sysctl %s=%s", k, s.Sysctl[k])
	}
	p := s.Process
	line("process %q in %s as %q groups %v", p.Args, p.Cwd, p.User, p.AdditionalGroups)
	line("env %q", p.Env)
	line("terminal=%t stdin=%t nnp=%t oom=%d init=%t", p.Terminal, p.OpenStdin, p.NoNewPrivileges, *p.OOMScoreAdj, s.Init)
	for _, r := range p.Rlimits {
		line("rlimit %s %d:%d", r.Type, r.Soft, r.Hard)
	}
	c := p.Capabilities
	if !slices.Equal(c.Bounding, c.Effective) || !slices.Equal(c.Bounding, c.Permitted) || len(c.Inheritable)+len(c.Ambient) > 0 {
		line("capabilities are not those of Docker's sets: %+v", c)
	}
	line("caps %s", strings.ReplaceAll(strings.Join(c.Bounding, " "), "CAP_", ""))
	return b.String()
}

const (
	dockerCaps    = "caps CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE\n"
	dockerMounts1 = "mount proc /proc nosuid,nodev,noexec\n" +
		"mount tmpfs /dev nosuid,strictatime,mode=755,size=65536k\n" +
		"mount sysfs /sys ro,nosuid,nodev,noexec\n"
	dockerMounts2 = "mount devpts /dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5\n" +
		"mount mqueue /dev/mqueue nosuid,nodev,noexec\n" +
		"mount tmpfs /dev/shm nosuid,nodev,noexec,mode=1777,size=67108864\n" +
		"mount cgroup /sys/fs/cgroup ro,nosuid,nodev,noexec\n"
	dockerPaths = "masked /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware\n" +
		"readonly /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger\n"
	noDevices  = "devices all=false extra=false\n"
	noLimits   = "resources {Memory:0 MemorySwap:0 MemoryReservation:0 CPUQuota:0 CPUPeriod:0 CPUShares:0 CpusetCpus: CpusetMems: PidsLimit:0 Swappiness:<nil> OOMKillDisable:false RTPeriod:0 RTRuntime:0 IO:<nil> HugePages:<nil>}\n"
	netSysctls = "sysctl net.ipv4.ip_unprivileged_port_start=0\nsysctl net.ipv4.ping_group_range=0 2147483647\n"
	plain      = "process [\"sh\"] in / as \"\" groups []\nenv [\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\" \"HOSTNAME=box\"]\n" +
		"terminal=false stdin=false nnp=false oom=0 init=false\n"
)

// TestBuildAsDocker compares launch specs with what Docker's default OCI spec
// has for the same request (moby's oci/defaults.go and daemon/oci_linux.go).
func TestBuildAsDocker(t *testing.T) {
	yes, pids := true, int64(-1)
	for _, c := range []struct {
		name   string
		config container.Config
		host   container.HostConfig
		mounts []box.Mount
		want   string
	}{
		{"default", container.Config{}, container.HostConfig{}, nil,
			dockerMounts1 + dockerMounts2 + "root readonly=false\n" + dockerPaths + noDevices + noLimits + netSysctls + plain + dockerCaps},
		{"host network", container.Config{}, container.HostConfig{NetworkMode: "host"}, nil,
			dockerMounts1 + dockerMounts2 + "root readonly=false\n" + dockerPaths + noDevices + noLimits + plain + dockerCaps},
		{"read-only with tmpfs", container.Config{}, container.HostConfig{ReadonlyRootfs: true}, []box.Mount{
			mustTmpfs(t, Point{Target: "/run", Data: "exec,size=64m,mode=755"}), mustTmpfs(t, Point{Target: "/tmp"})},
			dockerMounts1 + "mount tmpfs /run nosuid,nodev,size=64m,mode=755\nmount tmpfs /tmp nosuid,nodev,noexec\n" + dockerMounts2 +
				"root readonly=true\n" + dockerPaths + noDevices + noLimits + netSysctls + plain + dockerCaps},
		{"capabilities", container.Config{}, container.HostConfig{CapAdd: []string{"net_admin", "CAP_SYS_PTRACE"}, CapDrop: []string{"mknod", "NET_RAW"}}, nil,
			dockerMounts1 + dockerMounts2 + "root readonly=false\n" + dockerPaths + noDevices + noLimits + netSysctls + plain +
				"caps CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE NET_ADMIN SYS_PTRACE\n"},
		{"limits and the process",
			container.Config{Tty: true, OpenStdin: true, User: "1000:1000", WorkingDir: "/srv", Entrypoint: []string{"/e", "x y"}, Env: []string{"A=1", "PATH=/bin"}},
			container.HostConfig{GroupAdd: []string{"audio"}, OomScoreAdj: -500, Init: &yes,
				Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"},
				Resources: container.Resources{Memory: 64 << 20, MemorySwap: -1, NanoCPUs: 15e8, CPUShares: 512, CpusetCpus: "0", PidsLimit: &pids,
					Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1024, Hard: -1}}}}, nil,
			dockerMounts1 + dockerMounts2 + "root readonly=false\n" + dockerPaths + noDevices +
				"resources {Memory:67108864 MemorySwap:-1 MemoryReservation:0 CPUQuota:150000 CPUPeriod:100000 CPUShares:512 CpusetCpus:0 CpusetMems: PidsLimit:-1 Swappiness:<nil> OOMKillDisable:false RTPeriod:0 RTRuntime:0 IO:<nil> HugePages:<nil>}\n" +
				"sysctl net.ipv4.ip_unprivileged_port_start=80\nsysctl net.ipv4.ping_group_range=0 2147483647\n" +
				"process [\"/e\" \"x y\" \"sh\"] in /srv as \"1000:1000\" groups [audio]\nenv [\"PATH=/bin\" \"HOSTNAME=box\" \"TERM=xterm\" \"A=1\"]\n" +
				"terminal=true stdin=true nnp=false oom=-500 init=true\nrlimit RLIMIT_NOFILE 1024:18446744073709551615\n" + dockerCaps},
		{"mounts of the user replace the default ones", container.Config{}, container.HostConfig{}, []box.Mount{
			{Type: box.MountBind, Source: "/h/hosts", Target: "/etc/hosts"},
			{Type: box.MountBind, Source: "/h/deep", Target: "/srv/a/b/c", ReadOnly: true, Recursive: true, Propagation: "rslave"},
			{Type: box.MountBind, Source: "/dev", Target: "/dev", Recursive: true}, {Type: box.MountBind, Source: "/h/hosts2", Target: "/etc/hosts/"},
			{Type: box.MountBind, Source: "/h/cg", Target: "/sys/fs/cgroup"}, {Type: box.MountBind, Source: "/h/v", Target: "/srv/a", CopyUp: true}},
			"mount proc /proc nosuid,nodev,noexec\nmount sysfs /sys ro,nosuid,nodev,noexec\nmount bind /dev/dev rec\n" +
				"mount bind /h/hosts2/etc/hosts/ \nmount bind /h/v/srv/a copyup\nmount bind /h/cg/sys/fs/cgroup \nmount bind /h/deep/srv/a/b/c ro,rec,rslave\n" +
				"root readonly=false\n" + dockerPaths + noDevices + noLimits + netSysctls + plain + dockerCaps},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Hostname, c.config.Cmd = "box", []string{"sh"}
			s, err := Build(Input{ID: "a", Config: &c.config, HostConfig: &c.host, Mounts: c.mounts})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, text(s)); diff != "" {
				t.Errorf("Docker's has - and ours +:\n%s", diff)
			}
		})
	}
}

func mustTmpfs(t *testing.T, p Point) box.Mount {
	m, err := Tmpfs(p)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPrivileged: every capability and device, nothing hidden or read-only.
func TestPrivileged(t *testing.T) {
	s, err := Build(Input{Config: &container.Config{Cmd: []string{"sh"}}, HostConfig: &container.HostConfig{Privileged: true, CapDrop: []string{"ALL"}}})
	if err != nil {
		t.Fatal(err)
	}
	known, err := knownCaps()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.MaskedPaths)+len(s.ReadonlyPaths) > 0 || !s.Cgroup.AllDevices || !slices.Equal(s.Process.Capabilities.Effective, known) {
		t.Errorf("%v %v %v %v", s.MaskedPaths, s.ReadonlyPaths, s.Cgroup.AllDevices, s.Process.Capabilities)
	}
	for _, m := range s.Mounts {
		if m.ReadOnly {
			t.Errorf("%s is read-only", m.Target)
		}
	}
	if !slices.ContainsFunc(s.Devices, func(d box.Device) bool {
		return d.Path == "/dev/null" && d.Type == "c" && d.Major == 1 && d.Minor == 3 && d.Mode == 0o666
	}) {
		t.Errorf("the host's /dev/null is not among its devices: %+v", s.Devices)
	}
	for _, d := range s.Devices {
		for _, skip := range []string{"/dev/pts/", "/dev/shm/", "/dev/mqueue/", "/dev/fd/", "/dev/console", "/dev/ptmx"} {
			if strings.HasPrefix(d.Path, skip) {
				t.Errorf("%s is the host's own", d.Path)
			}
		}
	}
}

// TestHiddenProcessors: the throttle of each processor that has one is masked.
func TestHiddenProcessors(t *testing.T) {
	masked, readonly := HiddenPaths(&container.HostConfig{})
	if len(readonly) != 5 {
		t.Error(readonly)
	}
	found, err := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		if !slices.Contains(masked, p) {
			t.Errorf("%s is not masked", p)
		}
	}
	if _, err := os.Stat("/sys/devices/system/cpu/cpu0/thermal_throttle"); err == nil && len(found) == 0 {
		t.Error("the machine has throttles that were not found")
	}
	if masked, readonly = HiddenPaths(&container.HostConfig{Privileged: true}); masked != nil || readonly != nil {
		t.Error(masked, readonly)
	}
}
