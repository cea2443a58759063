package oci

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

var propagations = []string{"private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}

// attributes are the options of mount(8) that belong to a mount and not to its
// file system. With an "r" before it each is for the mounts below too. When a file
// was read last is one setting of three: whoever sets it clears the others.
var attributes = map[string]struct{ set, clear uint64 }{
	"ro": {set: unix.MOUNT_ATTR_RDONLY}, "rw": {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid": {set: unix.MOUNT_ATTR_NOSUID}, "suid": {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev": {set: unix.MOUNT_ATTR_NODEV}, "dev": {clear: unix.MOUNT_ATTR_NODEV},
	"noexec": {set: unix.MOUNT_ATTR_NOEXEC}, "exec": {clear: unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"nodiratime": {set: unix.MOUNT_ATTR_NODIRATIME}, "diratime": {clear: unix.MOUNT_ATTR_NODIRATIME},
	"noatime":     {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime": {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":    {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	// The kernel's default is relatime, so these two give up something else.
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
}

// attribute adds an option to those before it: the later one counts.
func attribute(a *box.Attributes, option string) bool {
	set, clear := &a.Set, &a.Clear
	f, ok := attributes[option]
	if !ok {
		if f, ok = attributes[strings.TrimPrefix(option, "r")]; !ok {
			return false
		}
		set, clear = &a.SetAll, &a.ClearAll
	}
	*set = *set&^f.clear | f.set
	*clear = *clear&^f.set | f.clear
	return true
}

// mount is an entry of mounts; its options are those of mount(8), with runc's.
func mount(bundle string, m *specs.Mount, warn func(string)) (box.Mount, error) {
	out := box.Mount{Type: m.Type, Source: m.Source, Target: m.Destination}
	refuse := func(what string) (box.Mount, error) {
		return out, fmt.Errorf("the mount at %s: %s is not supported by this runtime", m.Destination, what)
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return refuse("an idmapped mount")
	}
	var data []string
	for _, o := range m.Options {
		switch {
		case o == "bind" || o == "rbind":
			out.Type, out.Recursive = box.MountBind, out.Recursive || o == "rbind"
		case o == "tmpcopyup":
			out.CopyUp = true
		case o == "notmpcopyup":
			out.CopyUp = false
		case o == "defaults": // what is so where nothing else is said
		case slices.Contains(propagations, o):
			if out.Propagation != "" && out.Propagation != o {
				return refuse(fmt.Sprintf("%q and %q together", out.Propagation, o))
			}
			out.Propagation = o
		case !attribute(&out.Attr, o):
			data = append(data, o)
		}
	}
	switch out.Type {
	case box.MountBind:
		if !filepath.IsAbs(out.Source) {
			out.Source = filepath.Join(bundle, out.Source)
		}
		for _, o := range data {
			key, _, _ := strings.Cut(o, "=")
			if slices.Contains(ofNewFiles, key) {
				warn(fmt.Sprintf("the mount at %s is a bind, which has no %s of its own: the option %q does nothing", m.Destination, key, o))
			} else if !isSo(out.Source, o) {
				return refuse(fmt.Sprintf("the option %q of a bind", o))
			}
		}
		data = nil
	case "cgroup2", box.MountCgroup:
		out.Type = box.MountCgroup
		out.ReadOnly = (out.Attr.Set|out.Attr.SetAll)&unix.MOUNT_ATTR_RDONLY != 0
	case box.MountTmpfs, box.MountProc, box.MountSysfs, box.MountDevpts, box.MountMqueue:
	default:
		return refuse(fmt.Sprintf("a file system of type %q", m.Type))
	}
	if out.CopyUp && out.Type != box.MountTmpfs {
		return refuse("tmpcopyup of what is no tmpfs")
	}
	if out.Type == box.MountTmpfs && m.Source != "" && !strings.Contains(m.Source, ",") {
		data = append([]string{"source=" + m.Source}, data...)
	}
	out.Data = strings.Join(data, ",")
	return out, nil
}

// ofNewFiles are options by which a new tmpfs is made. Bundles have them for binds,
// too, where mount(2) takes no notice of them.
var ofNewFiles = []string{"mode", "uid", "gid", "size", "nr_blocks", "nr_inodes"}

// isSo says whether an option that is a file system's own, and so cannot be
// changed by a bind, is as it is asked for.
func isSo(source, option string) bool {
	var st unix.Statfs_t
	switch option {
	case "async", "sync":
		err := unix.Statfs(source, &st)
		return err == nil && st.Flags&unix.ST_SYNCHRONOUS != 0 == (option == "sync")
	case "mand", "nomand":
		err := unix.Statfs(source, &st)
		return err == nil && st.Flags&unix.ST_MANDLOCK != 0 == (option == "mand")
	case "loud": // the kernel says what is wrong, as it always does here
		return true
	}
	return false
}

// mountOptions are those that mount knows, sorted.
func mountOptions() []string {
	list := append([]string{"bind", "rbind", "defaults", "tmpcopyup"}, propagations...)
	for name := range attributes {
		list = append(list, name, "r"+name)
	}
	slices.Sort(list)
	return list
}
