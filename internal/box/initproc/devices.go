package initproc

import (
	"path"
	"strconv"
	"strings"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

var defaultDevices = []plan.Device{
	{Path: "null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3},
	{Path: "zero", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 5},
	{Path: "full", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 7},
	{Path: "random", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 8},
	{Path: "urandom", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 9},
	{Path: "tty", Mode: unix.S_IFCHR | 0o666, Major: 5, Minor: 0},
}

// DefaultDevices are those of every box, by their names in /dev.
func DefaultDevices() []plan.Device { return append([]plan.Device(nil), defaultDevices...) }

var defaultLinks = [][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
	{"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"}, {"pts/ptmx", "ptmx"},
}

// makeDevices fills a new tmpfs at /dev and makes the devices of the plan.
func (s *session) makeDevices() error {
	var dev *plan.Mount
	for i := range s.plan.Mounts {
		if isDev(&s.plan.Mounts[i]) {
			dev = &s.plan.Mounts[i]
		}
	}
	if dev != nil {
		if err := s.defaultDevices(); err != nil {
			return err
		}
	}
	for i := range s.plan.Devices {
		d := &s.plan.Devices[i]
		if covered(&s.plan, d.Path) || dev == nil && strings.HasPrefix(path.Clean(d.Path), "/dev/") {
			continue // a /dev of the user's has its own, and is the host's to change
		}
		root, dir := s.root, path.Dir(path.Clean(d.Path))
		if rest, ok := strings.CutPrefix(dir+"/", "/dev/"); ok {
			root, dir = s.dev, "/"+rest
		}
		parent, err := ensure(root, dir, false)
		if err == nil {
			err = placeNode(parent, d)
			unix.Close(parent)
		}
		if err != nil {
			return fail("device", d.Path, err, "cannot make the device "+strconv.Quote(d.Path)+" in the container")
		}
	}
	if dev != nil && dev.Set&unix.MOUNT_ATTR_RDONLY != 0 {
		if err := setAttr(s.dev, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return fail("device", "/dev", err, "cannot make /dev read-only")
		}
	}
	return nil
}

// placeNode makes a device of the plan. In /dev the later one of a name stands,
// as with runc.
func placeNode(parent int, d *plan.Device) error {
	name := path.Base(d.Path)
	err := makeNode(parent, name, d)
	if err != unix.EEXIST || path.Dir(path.Clean(d.Path)) != "/dev" {
		return err
	}
	var st unix.Stat_t
	if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Rdev == 0 {
		return err
	}
	if err := unix.Unlinkat(parent, name, 0); err != nil {
		return err
	}
	return makeNode(parent, name, d)
}

func (s *session) defaultDevices() error {
	dir := s.dev
	for i := range defaultDevices {
		if s.plan.Stocked {
			break
		}
		d := &defaultDevices[i]
		if covered(&s.plan, "/dev/"+d.Path) {
			continue
		}
		if err := makeNode(dir, d.Path, d); err != nil {
			return fail("device", "/dev/"+d.Path, err, "cannot make the device /dev/"+d.Path+" in the container")
		}
	}
	for _, link := range defaultLinks {
		if s.plan.Stocked {
			break
		}
		if link[1] == "core" && !there(s.root, "proc/kcore") {
			continue
		}
		if err := unix.Symlinkat(link[0], dir, link[1]); err != nil && err != unix.EEXIST {
			return fail("device", "/dev/"+link[1], err, "cannot make the link /dev/"+link[1]+" in the container")
		}
	}
	if !s.plan.Process.Terminal {
		return nil
	}
	fd, err := unix.Openat(dir, "console", unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	} else if err != unix.EEXIST {
		return fail("terminal", "/dev/console", err, "cannot make /dev/console in the container")
	}
	return nil
}

func there(root int, name string) bool {
	fd, err := openIn(root, name, unix.O_PATH, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// covered says whether a mount of the user stands for the device at a path, as with
// -v /dev/urandom:/dev/random.
func covered(p *plan.Plan, at string) bool {
	for i := range p.Mounts {
		if path.Clean(p.Mounts[i].Target) == path.Clean(at) {
			return true
		}
	}
	return false
}

// makeNode makes d as name in dir. Something there already is kept only when
// it is the very device.
func makeNode(dir int, name string, d *plan.Device) error {
	dev := unix.Mkdev(d.Major, d.Minor)
	err := unix.Mknodat(dir, name, d.Mode, int(dev))
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Rdev != dev || st.Mode&unix.S_IFMT != d.Mode&unix.S_IFMT {
			return unix.EEXIST
		}
		return nil
	}
	if err != nil {
		return err
	}
	if d.UID == 0 && d.GID == 0 {
		return nil
	}
	return unix.Fchownat(dir, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}
