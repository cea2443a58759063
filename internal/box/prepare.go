package box

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// bundle is a plan with its descriptors. The first slot is the plan's own memfd.
type bundle struct {
	plan  plan.Plan
	files []int
	owned []int // closed after sending

	userns int            // of the box; -1: the host's
	owners map[*Mount]int // user namespaces that map the owners of binds
	limits []plan.Rlimit  // set from outside
}

func newBundle() *bundle {
	b := &bundle{files: []int{-1}, userns: -1, owners: map[*Mount]int{}}
	b.plan.UserFD, b.plan.Gate = plan.NoFD, plan.NoFD
	b.plan.Root, b.plan.Null, b.plan.Tiny, b.plan.CgroupDir = plan.NoFD, plan.NoFD, plan.NoFD, plan.NoFD
	b.plan.Stdio = [3]int{plan.NoFD, plan.NoFD, plan.NoFD}
	return b
}

// lend adds a descriptor that stays the caller's; give adds one to close later.
func (b *bundle) lend(fd int) int {
	b.files = append(b.files, fd)
	return len(b.files) - 1
}

func (b *bundle) give(fd int) int {
	b.owned = append(b.owned, fd)
	return b.lend(fd)
}

func (b *bundle) close() {
	for _, fd := range b.owned {
		unix.Close(fd)
	}
	b.owned = nil
}

func (b *bundle) lendStdio(stdio Stdio) {
	for i, f := range []*os.File{stdio.Stdin, stdio.Stdout, stdio.Stderr} {
		if f != nil {
			b.plan.Stdio[i] = b.lend(rawFD(f))
		}
	}
}

// rawFD is f's descriptor, without Fd's side effect of making it block.
func rawFD(f *os.File) int {
	fd := -1
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(p uintptr) { fd = int(p) })
	}
	return fd
}

// copyOf is a descriptor of one's own beside f's, which may be closed, and its
// number used for another file, at any time. Error: os.ErrClosed when it is closed.
func copyOf(f *os.File) (int, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var failed error
	if c.Control(func(p uintptr) { fd, failed = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) }) != nil { // internal/poll has an error of its own for it
		return -1, os.ErrClosed
	}
	return fd, failed
}

func stepError(step, subject string, err error, message string) *Error {
	e := &Error{Step: step, Subject: subject, Message: message, ExitCode: 125}
	var errno unix.Errno
	if errors.As(err, &errno) {
		e.Errno = int(errno)
	}
	if err != nil {
		e.Message += ": " + plan.Reason(err)
	}
	return e
}

// fill opens every host path of the spec and writes the plan. Nothing of it
// depends on the cgroup.
func (b *bundle) fill(spec *Spec) error {
	p := &b.plan
	p.ID, p.Hostname, p.Domainname = spec.ID, spec.Hostname, spec.Domainname
	p.ReadonlyRoot, p.Ordered, p.FileLabel = spec.Root.ReadOnly, spec.Root.AsIs, spec.FileLabel
	p.Masked, p.Readonly = spec.MaskedPaths, spec.ReadonlyPaths
	for _, key := range sortedKeys(spec.Sysctl) {
		p.Sysctl = append(p.Sysctl, plan.Pair{Key: key, Value: spec.Sysctl[key]})
	}
	if err := b.process(&spec.Process); err != nil {
		return err
	}
	if err := b.root(&spec.Root, spec.Users); err != nil {
		return err
	}
	if spec.Namespaces.Mount.Mode != NamespaceNew {
		if p.RootAt = spec.Root.Path; p.RootAt == "" {
			return stepError(StepRoot, "overlay", nil, "a box without a mount namespace of its own needs a directory as its root file system")
		}
	}
	if spec.Hooks != nil {
		if err := b.hooks(spec); err != nil {
			return err
		}
	}
	if err := b.mounts(spec); err != nil {
		return err
	}
	if err := b.null(); err != nil {
		return err
	}
	for i := range spec.Devices {
		p.Devices = append(p.Devices, planDevice(&spec.Devices[i]))
	}
	return b.namespaces(&spec.Namespaces)
}

func planDevice(d *Device) plan.Device {
	kind := uint32(unix.S_IFCHR)
	switch d.Type {
	case "p":
		kind = unix.S_IFIFO
	case "b":
		kind = unix.S_IFBLK
	}
	return plan.Device{Path: d.Path, Mode: kind | d.Mode&0o7777, Major: uint32(d.Major), Minor: uint32(d.Minor), UID: d.UID, GID: d.GID}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (b *bundle) root(r *Root, users *Users) error {
	if r.Overlay != nil {
		fd, err := b.overlay(r.Overlay, users)
		if err != nil {
			return err
		}
		b.plan.Root = b.give(fd)
		return nil
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, r.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return stepError(StepRoot, r.Path, err, "cannot open the root file system "+r.Path)
	}
	b.plan.Root = b.give(fd)
	if users != nil && !r.AsIs {
		if err := mapOwners(fd, b.userns, r.Path, true); err != nil {
			return err
		}
	}
	return b.rootPropagation(fd, r)
}

// rootPropagation keeps what is mounted on the root from the host. A slave of the
// host's is one from here on, with all below it: as peers of the host's, those
// would hand the box's mounts to it. The others are set when all is mounted.
func (b *bundle) rootPropagation(fd int, r *Root) error {
	how, ok := propagations[r.Propagation]
	if !ok {
		return stepError(StepRoot, r.Path, nil, "the root file system asks for the propagation "+strconv.Quote(r.Propagation)+", which is unknown")
	}
	if how.flag != unix.MS_SLAVE {
		if how.flag != unix.MS_PRIVATE {
			b.plan.RootHow = how.flag
		}
		return b.private(fd, r.Path)
	}
	err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE})
	if err != nil {
		return stepError(StepRoot, r.Path, err, "cannot set the propagation of the root file system")
	}
	return nil
}

// overlay mounts layers, with mapped owners for a box with users of its own.
func (b *bundle) overlay(o *Overlay, users *Users) (int, error) {
	if users != nil {
		return mountMapped(o, users, b.userns, anyMapped)
	}
	return mountOverlay(o)
}

func (b *bundle) private(fd int, path string) error {
	err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	if err != nil {
		return stepError(StepMount, path, err, "cannot make the mount of "+path+" private (Linux 5.12 or newer is needed)")
	}
	return nil
}

var propagations = map[string]struct {
	flag      uint64
	recursive bool
}{
	"": {unix.MS_PRIVATE, true}, "private": {unix.MS_PRIVATE, false}, "rprivate": {unix.MS_PRIVATE, true},
	"slave": {unix.MS_SLAVE, false}, "rslave": {unix.MS_SLAVE, true},
	"shared": {unix.MS_SHARED, false}, "rshared": {unix.MS_SHARED, true},
	"unbindable": {unix.MS_UNBINDABLE, false}, "runbindable": {unix.MS_UNBINDABLE, true},
}

func (b *bundle) mounts(spec *Spec) error {
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		out := plan.Mount{Type: m.Type, Target: m.Target, FD: plan.NoFD, Recursive: m.Recursive, Data: m.Data, CopyUp: m.CopyUp, Top: m.ReadOnlyTop}
		if m.Give != nil {
			out.Give = []plan.IDs{{UID: m.Give.UID, GID: m.Give.GID}}
		}
		for _, f := range []struct {
			on   bool
			attr uint64
		}{{m.ReadOnly, unix.MOUNT_ATTR_RDONLY}, {m.NoSuid, unix.MOUNT_ATTR_NOSUID}, {m.NoDev, unix.MOUNT_ATTR_NODEV}, {m.NoExec, unix.MOUNT_ATTR_NOEXEC}} {
			if f.on {
				out.Set |= f.attr
			}
		}
		how, ok := propagations[m.Propagation]
		if !ok {
			return stepError(StepMount, m.Target, nil, "the mount at "+m.Target+" asks for the propagation "+strconv.Quote(m.Propagation)+", which is none of private, slave, shared and unbindable, nor one of them with an r before it")
		}
		if m.Propagation != "" {
			out.Propagation, out.Below = how.flag, how.recursive
		}
		if a := m.Attr; m.Type == MountBind || m.Type == MountImage {
			out.Attr = plan.Attributes(a)
		} else {
			out.Set = out.Set&^(a.Clear|a.ClearAll) | a.Set | a.SetAll
		}
		if m.Type == MountImage {
			fd, err := b.overlay(m.Layers, spec.Users)
			if err != nil {
				return err
			}
			out.Type, out.FD, out.Subpath = MountBind, b.give(fd), m.Subpath
		}
		if m.Type == MountMqueue && spec.Users != nil && spec.Namespaces.IPC.Mode == NamespaceHost {
			// Its users may not mount what is the host's; one is shown that is there.
			if out.FD = b.hostQueues(m.Target); out.FD == plan.NoFD {
				continue
			}
		}
		if m.Type == MountBind {
			propagation := how.flag
			if propagation == unix.MS_UNBINDABLE { // it has to be cloned once more, maybe
				propagation = unix.MS_PRIVATE
			} else {
				out.Propagation = 0
			}
			fd, file, err := openBind(m, propagation, how.recursive)
			if err != nil {
				return err
			}
			out.FD, out.File, out.CopyUp = b.give(fd), file, out.CopyUp && !file
			if userns, ok := b.owners[m]; ok {
				if err := mapOwners(fd, userns, m.Source, m.Recursive); err != nil {
					return err
				}
			}
		}
		if spec.Users != nil && m.Type == MountTmpfs && filepath.Clean(m.Target) == "/dev" {
			if err := b.devices(&out, spec.Devices, spec.Users); err != nil {
				return err
			}
		}
		b.plan.Mounts = append(b.plan.Mounts, out)
	}
	return nil
}

// hostQueues clones the host's mount of POSIX message queues, where it has one.
func (b *bundle) hostQueues(target string) int {
	fd, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return plan.NoFD
	}
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil || st.Type != mqueueMagic || b.private(fd, target) != nil {
		unix.Close(fd)
		return plan.NoFD
	}
	return b.give(fd)
}

const mqueueMagic = 0x19800202 // ipc/mqueue.c

// openBind clones the tree at a bind's source, detached.
func openBind(m *Mount, propagation uint64, recursive bool) (fd int, file bool, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	switch {
	case m.Of != nil:
		fd, err = m.Of.openTree(m.Source, flags)
	case m.Subpath != "":
		var at int
		if at, err = openBelow(m.Source, m.Subpath); err != nil {
			return -1, false, err
		}
		fd, err = unix.OpenTree(at, "", flags|unix.AT_EMPTY_PATH)
		unix.Close(at)
	default:
		fd, err = unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	}
	if err == unix.ENOENT {
		return -1, false, stepError(StepMount, m.Source, nil, "bind source path does not exist: "+m.Source)
	}
	if err != nil {
		return -1, false, stepError(StepMount, m.Source, err, "cannot open the bind source path "+m.Source)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, false, stepError(StepMount, m.Source, err, "cannot read the bind source path "+m.Source)
	}
	how := uint(unix.AT_EMPTY_PATH)
	if recursive {
		how |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(fd, "", how, &unix.MountAttr{Propagation: propagation}); err != nil {
		unix.Close(fd)
		return -1, false, stepError(StepMount, m.Source, err, "cannot set the propagation of the bind of "+m.Source)
	}
	return fd, st.Mode&unix.S_IFMT != unix.S_IFDIR, nil
}

// openBelow opens what lies below a volume's root in one step of the kernel's,
// so that a container which has the volume cannot make it lead elsewhere.
func openBelow(root, subpath string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, stepError(StepMount, root, err, "cannot open "+root)
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(dir, subpath, &how)
		switch {
		case err == nil:
			return fd, nil
		case err == unix.EINTR, err == unix.EAGAIN && tries < 1000: // a rename raced with ".."
			continue
		case err == unix.EXDEV: // both in Docker's words
			return -1, stepError(StepMount, subpath, nil, "path concatenation escapes the base directory, base: "+root+", subpath: "+subpath)
		}
		return -1, stepError(StepMount, subpath, nil, "cannot access path "+filepath.Join(root, subpath)+": "+err.Error())
	}
}

// null clones the host's /dev/null, proven to be the device 1:3, for masks
// (CVE-2025-31133: the container's own could be something else).
func (b *bundle) null() error {
	if len(b.plan.Masked) == 0 {
		return nil
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return stepError(StepDevice, "/dev/null", err, "cannot open the host's /dev/null")
	}
	b.plan.Null = b.give(fd)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return stepError(StepDevice, "/dev/null", err, "the host's /dev/null is not the null device: mend it with `rm /dev/null; mknod -m 666 /dev/null c 1 3`")
	}
	// It is the host's own inode: read-only, its mode and owner cannot be changed
	// through a mask. Reading and writing the device is as before.
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE})
	if err != nil {
		return stepError(StepDevice, "/dev/null", err, "cannot make the mask of files read-only (Linux 5.12 or newer is needed)")
	}
	return nil
}

// namespaces opens those that are joined, but for the pid namespace, which
// only a child can be born into. The mount namespace is entered last: the others
// are those of a /proc in this one.
func (b *bundle) namespaces(n *Namespaces) error {
	for _, ns := range []struct {
		name string
		flag int
		Namespace
	}{{"ipc", unix.CLONE_NEWIPC, n.IPC}, {"uts", unix.CLONE_NEWUTS, n.UTS}, {"net", unix.CLONE_NEWNET, n.Net}, {"cgroup", unix.CLONE_NEWCGROUP, n.Cgroup}, {"mnt", unix.CLONE_NEWNS, n.Mount}} {
		if ns.Mode != NamespaceJoin {
			continue
		}
		fd, err := openNamespace(ns.name, ns.Namespace)
		if err != nil {
			return err
		}
		b.plan.Enter = append(b.plan.Enter, plan.Entry{FD: b.give(fd), Flags: ns.flag, Name: ns.name})
	}
	b.plan.UnshareCgroup = n.Cgroup.Mode == NamespaceNew
	return nil
}

// openNamespace gives what setns(2) takes: a file of nsfs, or a pidfd.
func openNamespace(name string, ns Namespace) (int, error) {
	if ns.Of != nil {
		return ns.Of.pidfd(name + " namespace")
	}
	path := ns.Path
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		message := "cannot open the " + name + " namespace " + path
		if errors.Is(err, unix.ENOENT) {
			message += " (is its container still running?)"
		}
		return -1, stepError(StepNamespace, path, err, message)
	}
	return fd, nil
}

// hierarchies adds what the cgroup mount shows on v1: the box's own directory
// of each hierarchy.
func (b *bundle) hierarchies(paths map[string]string) error {
	if dir, ok := paths[""]; ok && len(paths) == 1 {
		b.plan.CgroupV2 = dir != ""
		return nil
	}
	for i := range b.plan.Mounts {
		m := &b.plan.Mounts[i]
		if m.Type != MountCgroup {
			continue
		}
		if m.Data != "" {
			return stepError(StepCgroup, m.Target, nil, "the mount of cgroups at "+m.Target+" has the option "+strconv.Quote(m.Data)+", which is for cgroup v2: on this host the container's cgroups are v1, and are shown as they are mounted here")
		}
		for name, dir := range hierarchyDirs(paths) {
			fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err != nil {
				return stepError(StepCgroup, dir, err, "cannot open the cgroup "+dir)
			}
			h := plan.Hierarchy{Name: name, FD: b.give(fd)}
			if parts := strings.Split(name, ","); len(parts) > 1 {
				h.Links = parts
			}
			m.Hierarchies = append(m.Hierarchies, h)
		}
	}
	return nil
}

// hierarchyDirs maps the names under /sys/fs/cgroup to the box's directories;
// controllers mounted together share one.
func hierarchyDirs(paths map[string]string) map[string]string {
	out := map[string]string{}
	for _, dir := range paths {
		rest, ok := strings.CutPrefix(filepath.Clean(dir), "/sys/fs/cgroup/")
		if name, _, found := strings.Cut(rest, "/"); ok && found {
			out[name] = dir
		}
	}
	return out
}
