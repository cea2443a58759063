package spec

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"hezi/internal/box"
	"hezi/internal/engine/users"
)

const (
	defaultShm = 64 << 20
	ttyGroup   = 5 // Debian's and Docker's
)

func hasID(maps []box.IDMap, id uint32) bool { _, ok := box.HostID(maps, id); return ok }

// defaultMounts are Docker's, with its options.
func defaultMounts(h *container.HostConfig, in Input) []box.Mount {
	security := in.Security
	terminals := "newinstance,ptmxmode=0666,mode=0620"
	if in.Users == nil || hasID(in.Users.GIDs, ttyGroup) {
		terminals += fmt.Sprintf(",gid=%d", ttyGroup)
	}
	ro := !h.Privileged
	roCgroups := ro
	if security != nil && security.WritableCgroups != nil {
		roCgroups = !*security.WritableCgroups
	}
	return append([]box.Mount{
		{Type: box.MountProc, Target: "/proc", NoSuid: true, NoExec: true, NoDev: true},
		{Type: box.MountTmpfs, Target: "/dev", NoSuid: true, Data: "strictatime,mode=755,size=65536k"},
		{Type: box.MountDevpts, Target: "/dev/pts", NoSuid: true, NoExec: true, Data: terminals},
		{Type: box.MountSysfs, Target: "/sys", NoSuid: true, NoExec: true, NoDev: true, ReadOnly: ro},
		{Type: box.MountCgroup, Target: "/sys/fs/cgroup", NoSuid: true, NoExec: true, NoDev: true, ReadOnly: roCgroups},
		{Type: box.MountMqueue, Target: "/dev/mqueue", NoSuid: true, NoExec: true, NoDev: true},
	}, sharedMemory(h, in.IPC)...)
}

// maskedPaths are Docker's: what tells about or controls the host's hardware.
func maskedPaths() []string {
	list := []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"}
	// One for each processor that has it (moby's GHSA-6fw5-f8r9-fgfm).
	const processors = "/sys/devices/system/cpu/"
	if _, err := os.Lstat(processors + "cpu0/thermal_throttle"); err != nil {
		return list
	}
	throttles, err := filepath.Glob(processors + "cpu[0-9]*/thermal_throttle")
	if err != nil { // the pattern is right
		return list
	}
	return append(list, throttles...)
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// HiddenPaths are the paths that a container must not see, and those that it
// must not write: what the request says, or the default ones.
func HiddenPaths(h *container.HostConfig) (masked, readonly []string) {
	masked, readonly = h.MaskedPaths, h.ReadonlyPaths
	if masked == nil && !h.Privileged {
		masked = maskedPaths()
	}
	if readonly == nil && !h.Privileged {
		readonly = readonlyPaths()
	}
	return masked, readonly
}

func depth(p string) int {
	return strings.Count(path.Clean(p), "/") - map[bool]int{true: 1}[path.Clean(p) == "/"]
}

// withoutReplaced are the default mounts that the user's leave: a mount of
// /dev brings its own folders.
func withoutReplaced(defaults, users []box.Mount) []box.Mount {
	theirs := map[string]bool{}
	for _, m := range users {
		theirs[path.Clean(m.Target)] = true
	}
	return slices.DeleteFunc(defaults, func(m box.Mount) bool {
		return theirs[m.Target] || theirs["/dev"] && strings.HasPrefix(m.Target, "/dev/")
	})
}

// lastOfEach lets a user's mount replace one of the engine's files in /etc.
func lastOfEach(mounts []box.Mount) []box.Mount {
	last := map[string]int{}
	for i, m := range mounts {
		last[path.Clean(m.Target)] = i
	}
	out := mounts[:0]
	for i, m := range mounts {
		if last[path.Clean(m.Target)] == i {
			out = append(out, m)
		}
	}
	return out
}

// procFiles are the files of /proc that tools such as lxcfs stand in for; programs
// rely on what all others say (runc allows the same).
var procFiles = []string{"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
	"/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled"}

// Target checks a path that something is mounted on, and cleans it.
func Target(p string) (string, error) {
	if !path.IsAbs(p) {
		return "", relative(p)
	}
	p = path.Clean(p)
	switch {
	case p == "/":
		return "", invalid("invalid mount: destination can't be '/': mount a folder inside instead")
	case p == "/proc", strings.HasPrefix(p, "/proc/") && !slices.Contains(procFiles, p):
		return "", invalid("invalid mount: destination '%s' cannot be mounted because it is inside /proc: choose another path", p)
	}
	return p, nil
}

func relative(p string) error {
	return invalid("invalid mount path: '%s' mount path must be absolute: write a leading slash, '/%s'", p, p)
}

func parseBind(s string) (Point, error) {
	parts := strings.Split(s, ":")
	p := Point{Create: true, Type: mount.TypeVolume}
	switch len(parts) {
	case 1:
		p.Target = parts[0]
		return p, nil
	case 3:
		p.Mode = parts[2]
	case 2:
	default:
		return p, invalid("invalid volume specification: '%s': write SOURCE:TARGET or SOURCE:TARGET:OPTIONS", s)
	}
	if parts[0] == "" || parts[1] == "" {
		return p, invalid("invalid volume specification: '%s': write SOURCE:TARGET or SOURCE:TARGET:OPTIONS", s)
	}
	p.Source, p.Target = parts[0], parts[1]
	if path.IsAbs(p.Source) {
		p.Type, p.Source = mount.TypeBind, path.Clean(p.Source)
	}
	err := readModes(p.Mode, func(m string) string {
		switch m {
		case "nocopy":
			p.NoCopy = true
			return m
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			p.Propagation = m
			return "propagation"
		case users.IDMap, users.MatchUser:
			p.Owners = m
			return "owners"
		case "U":
			p.Give = true
			return m
		}
		return commonMode(m, &p.ReadOnly)
	})
	switch {
	case err != nil:
		return p, invalid("invalid mode: %s: of '%s': %v: the options are ro, rw, z, Z, U, nocopy, idmap, match-user and propagation modes", p.Mode, s, err)
	case p.Give && p.Owners == users.MatchUser:
		return p, invalid("invalid mode: %s: of '%s': U gives the files to the container's user, and match-user shows them as its own: write one", p.Mode, s)
	case p.Type != mount.TypeBind && p.Owners != "":
		return p, invalid("invalid mode: %s: of '%s': a bind of a host's path takes idmap or match-user, a volume does not", p.Mode, s)
	case p.Type == mount.TypeBind && p.NoCopy:
		return p, invalid("invalid volume specification: '%s': invalid mount config for type \"bind\": field VolumeOptions must not be specified: nocopy is for volumes", s)
	case p.Type == mount.TypeVolume && p.Propagation != "":
		return p, invalid("invalid volume specification: '%s': invalid mount config for type \"volume\": field BindOptions must not be specified: propagation is for binds", s)
	}
	return p, nil
}

// checkOptions refuses options of another type of mount: they would do nothing.
func checkOptions(m mount.Mount) error {
	for _, o := range []struct {
		of  mount.Type
		set bool
	}{
		{mount.TypeBind, m.BindOptions != nil}, {mount.TypeVolume, m.VolumeOptions != nil}, {mount.TypeImage, m.ImageOptions != nil},
		{mount.TypeTmpfs, m.TmpfsOptions != nil}, {mount.TypeCluster, m.ClusterOptions != nil},
	} {
		if o.set && o.of != m.Type {
			return invalid("invalid mount config for type %q: field %sOptions must not be specified", m.Type, strings.ToUpper(string(o.of[:1]))+string(o.of[1:]))
		}
	}
	if m.Type == mount.TypeTmpfs && m.Source != "" {
		return invalid("invalid mount config for type \"tmpfs\": field Source must not be specified")
	}
	return nil
}

func parseMount(m mount.Mount) (Point, error) {
	p := Point{Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	bad := func(format string, args ...any) error {
		return invalid("invalid mount config for type %q: "+format, append([]any{m.Type}, args...)...)
	}
	if err := checkOptions(m); err != nil {
		return p, err
	}
	if m.Target == "" {
		return p, bad("field Target must not be empty")
	}
	if m.Source == "" && (m.Type == mount.TypeBind || m.Type == mount.TypeImage) {
		return p, bad("field Source must not be empty")
	}
	switch m.Type {
	case mount.TypeBind:
		if !path.IsAbs(m.Source) {
			return p, bad("invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		p.Source = path.Clean(m.Source)
		// The API has no field for it; what is meant for another system is free.
		if c := string(m.Consistency); c == users.IDMap || c == users.MatchUser {
			p.Owners = c
		}
		if o := m.BindOptions; o != nil {
			switch o.Propagation {
			case "", mount.PropagationPrivate, mount.PropagationRPrivate, mount.PropagationSlave, mount.PropagationRSlave, mount.PropagationShared, mount.PropagationRShared:
			default:
				return p, bad("invalid propagation mode: %s", o.Propagation)
			}
			switch {
			case !m.ReadOnly && o.ReadOnlyNonRecursive:
				return p, bad("mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive")
			case !m.ReadOnly && o.ReadOnlyForceRecursive:
				return p, bad("mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive")
			case o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive:
				return p, bad("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
			}
			// Recursive read-only is what there is always: nothing is left to force.
			p.Propagation, p.Create, p.NonRecursive, p.ReadOnlyTop = string(o.Propagation), o.CreateMountpoint, o.NonRecursive, o.ReadOnlyNonRecursive
		}
	case mount.TypeVolume:
		if o := m.VolumeOptions; o != nil {
			p.NoCopy, p.Subpath, p.Labels = o.NoCopy, o.Subpath, o.Labels
			if o.DriverConfig != nil {
				p.Driver, p.DriverOptions = o.DriverConfig.Name, o.DriverConfig.Options
			}
			if p.Subpath != "" && p.Source == "" {
				return p, bad("must not set Subpath when using anonymous volumes")
			}
		}
	case mount.TypeImage:
		p.ReadOnly = true
		if m.ImageOptions != nil {
			p.Subpath = m.ImageOptions.Subpath
		}
	case mount.TypeTmpfs:
		if o := m.TmpfsOptions; o != nil {
			data, err := tmpfsData(o)
			if err != nil {
				return p, bad("%s", err)
			}
			p.Data = data
		}
	default:
		return p, bad("mount type unknown: the types are bind, volume, tmpfs and image")
	}
	if p.Subpath != "" && !filepath.IsLocal(p.Subpath) {
		return p, bad("subpath must be a relative path within the volume")
	}
	return p, nil
}

// tmpfsData are the options of a tmpfs of --mount as mount(8) has them.
func tmpfsData(o *mount.TmpfsOptions) (string, error) {
	var data []string
	if o.SizeBytes < 0 {
		return "", errors.New("a size must not be negative")
	}
	if o.SizeBytes > 0 {
		data = append(data, fmt.Sprintf("size=%d", o.SizeBytes))
	}
	if o.Mode != 0 {
		data = append(data, fmt.Sprintf("mode=%o", o.Mode))
	}
	for _, option := range o.Options {
		if len(option) < 1 || len(option) > 2 {
			return "", errors.New("invalid option array length")
		}
		if option[0] != "exec" && option[0] != "noexec" || len(option) == 2 {
			return "", errors.New("invalid option: " + strings.Join(option, "=") + ": exec and noexec are known")
		}
		data = append(data, option[0])
	}
	return strings.Join(data, ","), nil
}

// Tmpfs is a tmpfs mount with Docker's defaults and the options of --tmpfs.
func Tmpfs(p Point) (box.Mount, error) {
	m := box.Mount{Type: box.MountTmpfs, Target: p.Target, NoSuid: true, NoDev: true, NoExec: true, ReadOnly: p.ReadOnly}
	var data []string
	for o := range strings.SplitSeq(p.Data, ",") {
		key, _, _ := strings.Cut(o, "=")
		switch key {
		case "", "defaults", "async", "nomand", "atime", "diratime", "norelatime", "private", "rprivate": // the kernel's defaults
		case "ro", "rw":
			m.ReadOnly = key == "ro"
		case "exec", "noexec":
			m.NoExec = key == "noexec"
		case "suid", "nosuid":
			m.NoSuid = key == "nosuid"
		case "dev", "nodev":
			m.NoDev = key == "nodev"
		case "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "noatime", "nodiratime", "relatime", "strictatime":
			data = append(data, o)
		default:
			return m, invalid("invalid tmpfs option %q: the options are size, mode, uid, gid, nr_inodes, ro, exec, suid, dev", o)
		}
	}
	m.Data = strings.Join(data, ",")
	return m, nil
}
