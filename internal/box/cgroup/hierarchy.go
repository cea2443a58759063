package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	dir string // mount point
	// keys are the controllers, or "name=systemd"; "" alone is v2.
	keys []string
}

func (h hierarchy) has(key string) bool { return slices.Contains(h.keys, key) }

// detect finds the hierarchies in use. v1 wins when any controller is on v1.
func detect(mountinfo string) (version int, list []hierarchy, err error) {
	text, err := os.ReadFile(mountinfo)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot find the cgroup hierarchies: %w", err)
	}
	v1, v2 := parse(string(text))
	v1 = slices.DeleteFunc(v1, func(h hierarchy) bool { return !mounted(h.dir, unix.CGROUP_SUPER_MAGIC) })
	v2 = slices.DeleteFunc(v2, func(h hierarchy) bool { return !mounted(h.dir, unix.CGROUP2_SUPER_MAGIC) })
	if slices.ContainsFunc(v1, func(h hierarchy) bool { return !strings.HasPrefix(h.keys[0], "name=") }) {
		return 1, v1, nil
	}
	if len(v2) > 0 {
		return 2, v2[:1], nil
	}
	return 0, nil, errors.New("no cgroup hierarchy with controllers is mounted: mount cgroup v2 by `mount -t cgroup2 none /sys/fs/cgroup`, or start an init that does")
}

// mounted says whether the file system at dir is of this kind: another mount
// may lie over it.
func mounted(dir string, magic int64) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && int64(s.Type) == magic
}

// parse reads mountinfo (proc_pid_mountinfo(5)). A controller that is mounted
// twice counts where it is first, but under /sys/fs/cgroup before elsewhere.
func parse(text string) (v1, v2 []hierarchy) {
	seen := map[string]int{}
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			continue
		}
		dir := unescape(l[4])
		usual := dir == "/sys/fs/cgroup" || strings.HasPrefix(dir, "/sys/fs/cgroup/")
		switch r[0] {
		case "cgroup2":
			h := hierarchy{dir, []string{""}}
			if usual {
				v2 = slices.Insert(v2, 0, h)
			} else {
				v2 = append(v2, h)
			}
		case "cgroup":
			keys := keysOf(r[2])
			if len(keys) == 0 {
				continue
			}
			id := strings.Join(keys, ",")
			i, known := seen[id]
			switch {
			case !known:
				seen[id] = len(v1)
				v1 = append(v1, hierarchy{dir, keys})
			case usual && !strings.HasPrefix(v1[i].dir, "/sys/fs/cgroup/"):
				v1[i].dir = dir
			}
		}
	}
	return v1, v2
}

// keysOf takes the controllers out of the mount options of cgroup v1.
func keysOf(options string) []string {
	var keys []string
	for o := range strings.SplitSeq(options, ",") {
		switch {
		case o == "rw" || o == "ro" || o == "xattr" || o == "noprefix" || o == "clone_children" || o == "all" || o == "none" ||
			o == "cpuset_v2_mode" || o == "favordynmods" || strings.HasPrefix(o, "release_agent="):
		case strings.HasPrefix(o, "name=") || !strings.Contains(o, "="):
			keys = append(keys, o)
		}
	}
	slices.Sort(keys)
	return keys
}

// unescape resolves mountinfo's octal escapes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// cleanParent checks a parent such as "/hezi-1a2b3c4d" or "/a/b" and gives it
// without the leading slash.
func cleanParent(parent string) (string, error) {
	p := strings.Trim(parent, "/")
	if p == "" {
		return "", errors.New("a cgroup parent needs a name: the root of a hierarchy cannot hold containers")
	}
	if path.Clean(p) != p {
		return "", fmt.Errorf("invalid cgroup parent %q: write it without . and .. and double slashes", parent)
	}
	for c := range strings.SplitSeq(p, "/") {
		if err := checkName(c); err != nil {
			return "", fmt.Errorf("invalid cgroup parent %q: %w", parent, err)
		}
	}
	return p, nil
}

// CheckParent says whether a group can be the parent of containers.
func CheckParent(parent string) error {
	_, err := cleanParent(parent)
	return err
}

// reserved names begin files of the kernel in a cgroup, up to the dot.
var reserved = []string{"cgroup", "cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "io", "hugetlb",
	"net_cls", "net_prio", "perf_event", "rdma", "misc", "dmem", "tasks", "notify_on_release", "release_agent", "irq"}

func checkName(name string) error {
	if name == "" || len(name) > 200 || name == "." || name == ".." {
		return fmt.Errorf("%q cannot name a cgroup", name)
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(`-_.:@\`, c) >= 0:
		default:
			return fmt.Errorf("%q cannot name a cgroup: only letters, digits and -_.:@\\ can be in it", name)
		}
	}
	head, _, dot := strings.Cut(name, ".")
	if slices.Contains(reserved, head) && (dot || head == "tasks" || head == "notify_on_release" || head == "release_agent") {
		return fmt.Errorf("%q cannot name a cgroup: the kernel has files of such names there", name)
	}
	return nil
}
