package initproc

import (
	"strconv"
	"strings"

	"hezi/internal/box/copytree"
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

const (
	stepMount = "mount"
	stepRoot  = "root file system"
	stepPivot = "pivot_root"
)

// attributes are the mount flags that mount(8) writes among the options.
var attributes = map[string]uint64{
	"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV,
	"noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME, "nodiratime": unix.MOUNT_ATTR_NODIRATIME,
	"strictatime": unix.MOUNT_ATTR_STRICTATIME, "relatime": 0, "rw": 0, "suid": 0, "dev": 0, "exec": 0,
}

// NewMount makes a detached file system. The kernel's own words about a bad
// option are part of the error.
func NewMount(kind, data string, attr uint64) (int, error) {
	return NewLabelled(kind, data, "", attr)
}

// NewLabelled is NewMount with an SELinux label for all files, or "".
func NewLabelled(kind, data, label string, attr uint64) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	source, data := sourceOf(kind, data)
	if err := unix.FsconfigSetString(fs, "source", source); err != nil {
		return -1, err
	}
	for option := range strings.SplitSeq(data, ",") {
		if option == "" {
			continue
		}
		if a, ok := attributes[option]; ok {
			attr |= a
			continue
		}
		key, value, ok := strings.Cut(option, "=")
		if ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, &optionError{option, fsLog(fs), err}
		}
	}
	if label != "" {
		if err := unix.FsconfigSetString(fs, "context", label); err != nil {
			return -1, &optionError{"context=" + label, fsLog(fs), err}
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, &optionError{data, fsLog(fs), err}
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attr))
}

// sourceOf is what mountinfo shows as the source: what data names, or the kind
// as runc has it; and the data without it.
func sourceOf(kind, data string) (source, rest string) {
	if before, named, ok := strings.Cut(","+data, ",source="); ok {
		source, rest, _ = strings.Cut(named, ",")
		return source, before + "," + rest
	}
	if kind == "cgroup2" {
		return "cgroup", data
	}
	return kind, data
}

type optionError struct {
	option, log string
	err         error
}

func (e *optionError) Error() string {
	text := "option " + strconv.Quote(e.option) + ": " + e.err.Error()
	if e.log != "" {
		text += " (the kernel says: " + e.log + ")"
	}
	return text
}

func fsLog(fs int) string {
	buf := make([]byte, 1024)
	n, err := unix.Read(fs, buf)
	if err != nil || n < 3 {
		return ""
	}
	return strings.TrimSpace(string(buf[2:n])) // "e message"
}

func attach(mount, target int) error {
	return unix.MoveMount(mount, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func setAttr(mount int, set, clear uint64, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(mount, "", flags, &unix.MountAttr{Attr_set: set, Attr_clr: clear})
}

func setPropagation(mount int, how uint64, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(mount, "", flags, &unix.MountAttr{Propagation: how})
}

// mountAll makes the mounts of the plan on the root.
func (s *session) mountAll() error {
	for i := range s.plan.Mounts {
		m := &s.plan.Mounts[i]
		if err := s.mountOne(m); err != nil {
			if _, ok := err.(*plan.Error); ok {
				return err
			}
			return fail(stepMount, m.Target, err, "cannot mount "+m.Type+" at "+strconv.Quote(m.Target)+" in the container")
		}
	}
	return nil
}

// inImage says whether there is something to copy up: a mount point that is made
// for a volume has no owner and mode to give to it.
func inImage(root int, target string) bool {
	fd, err := openIn(root, target, unix.O_PATH, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

func (s *session) mountOne(m *plan.Mount) error {
	if fd, ok := s.stocked(m); ok {
		if fd < 0 {
			return nil
		}
		return place(s, m, fd)
	}
	if m.Type == "cgroup" {
		return s.mountCgroup(m)
	}
	fd, err := s.tree(m)
	if err != nil {
		return err
	}
	defer func() {
		if fd != s.dev {
			unix.Close(fd)
		}
	}()
	if m.Subpath != "" {
		if fd, err = part(m, s.root, fd); err != nil {
			return err
		}
	}
	if isDev(m) {
		s.dev = fd
	}
	if ordinary(m) {
		if err := s.refuseLink(m.Target); err != nil {
			return err
		}
	}
	copies := m.CopyUp && inImage(s.root, m.Target)
	target, err := ensure(s.root, m.Target, m.File)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if s.outside {
		if err := ofKernel(m, target); err != nil {
			return err
		}
	}
	if err := checkKind(m, target); err != nil {
		return err
	}
	if copies {
		if err := CopyUp(target, fd); err != nil {
			return fail(stepMount, m.Target, err, "cannot copy what the image has at "+strconv.Quote(m.Target)+" into the new volume")
		}
	}
	for _, to := range m.Give {
		if err := copytree.Give(fd, to.UID, to.GID); err != nil {
			return fail(stepMount, m.Target, err, "cannot give the volume at "+strconv.Quote(m.Target)+" to the container's user")
		}
	}
	if s.plan.Ordered && made(s, m) {
		if fd, err = renew(s, m, fd, target); err != nil {
			return err
		}
	}
	if m.Type == "bind" {
		if m.Propagation != 0 {
			if err := setPropagation(fd, m.Propagation, m.Below); err != nil {
				return err
			}
		}
		if m.Set != 0 {
			if err := setAttr(fd, m.Set, 0, m.Recursive && !m.Top); err != nil {
				return err
			}
		}
		if err := more(fd, &m.Attr); err != nil {
			return err
		}
	}
	if err := attach(fd, target); err != nil {
		return err
	}
	return s.labelQueues(m, fd)
}

// labels is what the files of a file system that init makes are to have. Those of
// proc and sysfs have the kernel's.
func (s *session) labels(kind string) string {
	if kind == "tmpfs" || kind == "devpts" {
		return s.plan.FileLabel
	}
	return ""
}

// labelQueues labels the folder of message queues, which takes no option for
// it in a user namespace.
func (s *session) labelQueues(m *plan.Mount, fd int) error {
	if m.Type != "mqueue" || m.FD >= 0 || s.plan.FileLabel == "" {
		return nil
	}
	err := unix.Fchdir(s.proc)
	if err == nil {
		err = unix.Setxattr("self/fd/"+strconv.Itoa(fd), "security.selinux", []byte(s.plan.FileLabel), 0)
	}
	if err == unix.ENOTSUP || err == unix.EPERM && s.plan.User { // it may be of whoever made the namespace, who is no user in it
		err = nil
	}
	if back := unix.Fchdir(s.root); err == nil {
		err = back
	}
	return err
}

// more sets what a bind asks for beside the usual.
func more(fd int, a *plan.Attributes) error {
	if a.Set|a.Clear != 0 {
		if err := setAttr(fd, a.Set, a.Clear, false); err != nil {
			return err
		}
	}
	if a.SetAll|a.ClearAll != 0 {
		return setAttr(fd, a.SetAll, a.ClearAll, true)
	}
	return nil
}

// made says whether the tree of m was made before the mounts that precede it.
func made(s *session, m *plan.Mount) bool {
	_, early := s.early[m]
	return m.FD >= 0 || early
}

// renew gives a clone of a detached tree, which it closes: mountinfo lists mounts
// in the order in which they were made. It is cloned while it is attached, for a moment.
func renew(s *session, m *plan.Mount, tree, target int) (int, error) {
	defer unix.Close(tree)
	if err := attach(tree, target); err != nil {
		return -1, err
	}
	how := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if m.Recursive {
		how |= unix.AT_RECURSIVE
	}
	clone, err := unix.OpenTree(tree, "", how)
	if err != nil {
		return -1, err
	}
	if err = unix.Fchdir(s.proc); err == nil { // what is mounted may be a file
		err = unix.Unmount("self/fd/"+strconv.Itoa(tree), unix.MNT_DETACH)
	}
	if err == nil {
		err = unix.Fchdir(s.root)
	}
	if err != nil {
		unix.Close(clone)
		return -1, err
	}
	if isDev(m) {
		s.dev = clone
	}
	return clone, nil
}

// part is what a mount asks for of a detached tree, which it closes. A tree can
// be cloned only while it is attached (before Linux 6.15), so it is for a
// moment, on the root that nobody else sees yet.
func part(m *plan.Mount, root, tree int) (int, error) {
	defer unix.Close(tree)
	if err := attach(tree, root); err != nil {
		return -1, err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	at, err := unix.Openat2(tree, m.Subpath, &how)
	clone := -1
	var st unix.Stat_t
	if err == nil {
		if err = unix.Fstat(at, &st); err == nil {
			clone, err = unix.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		}
		unix.Close(at)
	}
	m.File = st.Mode&unix.S_IFMT != unix.S_IFDIR
	if err == unix.EXDEV {
		return -1, fail(stepMount, m.Subpath, nil, "path concatenation escapes the base directory, subpath: "+m.Subpath)
	}
	if err != nil {
		return -1, fail(stepMount, m.Subpath, err, "cannot access path "+m.Subpath+" of the image")
	}
	if err = unix.Fchdir(tree); err == nil {
		err = unix.Unmount(".", unix.MNT_DETACH)
	}
	if err != nil {
		unix.Close(clone)
		return -1, err
	}
	return clone, nil
}

// tree is the detached mount that m is about.
func (s *session) tree(m *plan.Mount) (int, error) {
	if m.FD >= 0 {
		return s.fd(m.FD), nil
	}
	if fd, ok := s.early[m]; ok {
		return fd, nil
	}
	attr := m.Set
	if isDev(m) {
		attr &^= unix.MOUNT_ATTR_RDONLY // its nodes are made first
	}
	data := m.Data
	if m.Type == "tmpfs" && !strings.Contains(","+data, ",mode=") {
		data = modeOf(s.root, m.Target) + data
	}
	fd, err := NewLabelled(m.Type, data, s.labels(m.Type), attr)
	if err == nil && m.Propagation != 0 {
		err = setPropagation(fd, m.Propagation, false)
	}
	return fd, err
}

// modeOf is the mode of what a tmpfs covers, as its option: programs rely on
// that of /tmp or /run. runc does the same.
func modeOf(root int, target string) string {
	fd, err := openIn(root, target, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return ""
	}
	return "mode=0" + strconv.FormatUint(uint64(st.Mode&0o7777), 8) + ","
}

func isDev(m *plan.Mount) bool { return m.Type == "tmpfs" && strings.Trim(m.Target, "/") == "dev" }

// ordinary says whether m must sit on a real directory of the image: programs,
// and init itself, rely on what these paths mean (CVE-2026-41579).
func ordinary(m *plan.Mount) bool { return m.Type == "proc" || m.Type == "sysfs" || isDev(m) }

func (s *session) refuseLink(target string) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: inRoot | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(s.root, target, &how)
	if err == unix.ELOOP {
		return fail(stepMount, target, nil, strconv.Quote(target)+" in the image is a symbolic link, but must be an ordinary directory: fix the image")
	}
	if err == nil {
		unix.Close(fd)
	}
	return nil
}

func checkKind(m *plan.Mount, target int) error {
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if dir && m.File {
		return fail(stepMount, m.Target, unix.EISDIR, "cannot mount a file at "+strconv.Quote(m.Target)+", where the container has a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type")
	}
	if !dir && !m.File {
		return fail(stepMount, m.Target, unix.ENOTDIR, "cannot mount a directory at "+strconv.Quote(m.Target)+", which is a file in the container: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type")
	}
	return nil
}

// mountCgroup shows the box its own cgroup, once it is in it.
func (s *session) mountCgroup(m *plan.Mount) error {
	if err := s.cgroupNamespace(); err != nil {
		return err
	}
	target, err := ensure(s.root, m.Target, false)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if s.plan.CgroupV2 {
		fd, err := NewMount("cgroup2", m.Data, m.Set)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if m.Propagation != 0 {
			if err := setPropagation(fd, m.Propagation, false); err != nil {
				return err
			}
		}
		return attach(fd, target)
	}
	dir, err := NewLabelled("tmpfs", "mode=755", s.plan.FileLabel, m.Set&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for _, h := range m.Hierarchies {
		if err := s.hierarchy(dir, h, m.Set); err != nil {
			return err
		}
	}
	if err := attach(dir, target); err != nil {
		return err
	}
	for _, h := range m.Hierarchies {
		at, err := openIn(dir, h.Name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		err = attach(s.fd(h.FD), at)
		unix.Close(at)
		if err != nil {
			return err
		}
	}
	if m.Propagation != 0 {
		if err := setPropagation(dir, m.Propagation, true); err != nil {
			return err
		}
	}
	return setAttr(dir, m.Set, 0, false)
}

func (s *session) hierarchy(dir int, h plan.Hierarchy, attr uint64) error {
	if err := unix.Mkdirat(dir, h.Name, 0o755); err != nil {
		return err
	}
	for _, link := range h.Links {
		if err := unix.Symlinkat(h.Name, dir, link); err != nil {
			return err
		}
	}
	return setAttr(s.fd(h.FD), attr, 0, false)
}

// hide puts an empty read-only directory or /dev/null over the masked paths
// and makes the read-only ones so.
func (s *session) hide() error {
	empty := -1
	for _, p := range s.plan.Masked {
		if hidden(&s.plan, p) {
			continue
		}
		target, err := openIn(s.root, p, unix.O_PATH, 0)
		if err == unix.ENOENT || err == unix.ENOTDIR {
			continue
		}
		if err == nil {
			err = s.mask(target, &empty)
			unix.Close(target)
		}
		if err != nil {
			return fail(stepMount, p, err, "cannot mask "+strconv.Quote(p))
		}
	}
	for _, p := range s.plan.Readonly {
		if hidden(&s.plan, p) {
			continue
		}
		target, err := openIn(s.root, p, unix.O_PATH, 0)
		if err == unix.ENOENT || err == unix.ENOTDIR {
			continue
		}
		if err == nil {
			err = readonly(target)
			unix.Close(target)
		}
		if err != nil {
			return fail(stepMount, p, err, "cannot make "+strconv.Quote(p)+" read-only")
		}
	}
	return nil
}

func readonly(target int) error {
	tree, err := unix.OpenTree(target, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setAttr(tree, unix.MOUNT_ATTR_RDONLY, 0, true); err != nil {
		return err
	}
	return attach(tree, target)
}

// mask covers target. The first cover is attached as it is, later ones are
// clones of it: a detached mount can be cloned only since Linux 6.15.
func (s *session) mask(target int, empty *int) error {
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	from, first := s.fd(s.plan.Null), !s.nullUsed
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		first = *empty < 0
		if first {
			fd, err := NewLabelled("tmpfs", "mode=755", s.plan.FileLabel, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
			if err != nil {
				return err
			}
			*empty = fd
		}
		from = *empty
	} else {
		s.nullUsed = true
	}
	if first {
		return attach(from, target)
	}
	clone, err := unix.OpenTree(from, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(clone)
	return attach(clone, target)
}
