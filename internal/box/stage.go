package box

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hezi/internal/box/copytree"
	"hezi/internal/box/initproc"
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// Names in a folder that Stage has filled.
const (
	StagedRoot   = "rootfs"
	stagedMounts = "mounts"
)

// Stage mounts a box's file systems on the host, in a folder of the caller's own,
// for another OCI runtime to start the box: its root at StagedRoot, and those of
// its mounts that such a runtime cannot make, or not so that nobody can lead them
// elsewhere. It fills new volumes with what the image has. The answer is the
// mounts that are left for the runtime, in order. After an error too, Unstage
// must follow.
func (r *Runtime) Stage(spec *Spec, dir string) ([]Mount, error) {
	b := newBundle()
	defer b.close()
	if spec.Users != nil {
		fd, err := r.namespaceOf(spec.Users, nil, nil)
		if err != nil {
			return nil, err
		}
		b.owned = append(b.owned, fd)
		b.userns = fd
	}
	if err := b.root(&spec.Root, spec.Users); err != nil {
		return nil, err
	}
	root := filepath.Join(dir, StagedRoot)
	if err := stageAt(b.files[b.plan.Root], root, false); err != nil {
		return nil, err
	}
	out := make([]Mount, len(spec.Mounts))
	copy(out, spec.Mounts)
	for i := range out {
		m := &out[i]
		if m.special() || m.Type == MountBind && spec.Users != nil { // to whose root the source may be out of reach
			at := filepath.Join(dir, stagedMounts, strconv.Itoa(i))
			if err := r.stageMount(b, spec, m, root, at); err != nil {
				return nil, err
			}
			*m = Mount{Type: MountBind, Source: at, Target: m.Target, Recursive: true, Propagation: m.Propagation}
		}
		if m.CopyUp { // not staged
			if err := copyUp(root, m, -1); err != nil {
				return nil, err
			}
			m.CopyUp = false
		}
		if m.Type == MountBind {
			if err := m.keepFlags(); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// keepFlags has a bind keep the flags of the mount that it is of: a runtime may
// set those that it is told, and no others (crun does always).
func (m *Mount) keepFlags() error {
	var st unix.Statfs_t
	if err := unix.Statfs(m.Source, &st); err != nil {
		if err == unix.ENOENT {
			return stepError(StepMount, m.Source, nil, "bind source path does not exist: "+m.Source)
		}
		return stepError(StepMount, m.Source, err, "cannot open the bind source path "+m.Source)
	}
	has := func(flag int64) bool { return st.Flags&flag != 0 } // ST_* of statfs(2), which are MS_*
	m.ReadOnly, m.NoSuid = m.ReadOnly || has(unix.MS_RDONLY), m.NoSuid || has(unix.MS_NOSUID)
	m.NoDev, m.NoExec = m.NoDev || has(unix.MS_NODEV), m.NoExec || has(unix.MS_NOEXEC)
	return nil
}

// special says whether a bind is more than mount(8)'s, or a mount no bind at all.
func (m *Mount) special() bool {
	return m.Type == MountImage || m.Type == MountBind && (m.Of != nil || m.Subpath != "" || m.Owners != nil || m.ReadOnly && m.Recursive && !m.ReadOnlyTop)
}

func (r *Runtime) stageMount(b *bundle, spec *Spec, m *Mount, root, at string) error {
	one := &Spec{Mounts: []Mount{*m}, Users: spec.Users}
	if m.Owners != nil {
		fd, err := r.namespaceOf(m.Owners, nil, nil)
		if err != nil {
			return err
		}
		b.owned = append(b.owned, fd)
		b.owners[&one.Mounts[0]] = fd
	}
	b.plan.Mounts = nil
	if err := b.mounts(one); err != nil {
		return err
	}
	p := &b.plan.Mounts[0]
	tree := b.files[p.FD]
	if p.Subpath != "" { // of an image: it can only be looked up in what is mounted
		whole := at + "-all"
		if err := stageAt(tree, whole, false); err != nil {
			return err
		}
		below, err := openBelow(whole, p.Subpath)
		if err != nil {
			return err
		}
		defer unix.Close(below)
		var st unix.Stat_t
		if err := unix.Fstat(below, &st); err != nil {
			return stepError(StepMount, p.Subpath, err, "cannot access path "+p.Subpath+" of the image")
		}
		p.File = st.Mode&unix.S_IFMT != unix.S_IFDIR
		if tree, err = unix.OpenTree(below, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH); err != nil {
			return stepError(StepMount, p.Subpath, err, "cannot access path "+p.Subpath+" of the image")
		}
		b.owned = append(b.owned, tree)
	}
	if m.CopyUp { // with the owners that it maps, and before it may be read-only
		if err := copyUp(root, m, tree); err != nil {
			return err
		}
	}
	if p.Set != 0 {
		how := uint(unix.AT_EMPTY_PATH)
		if p.Recursive && !p.Top {
			how |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(tree, "", how, &unix.MountAttr{Attr_set: p.Set}); err != nil {
			return stepError(StepMount, m.Target, err, "cannot set the attributes of the mount at "+m.Target)
		}
	}
	return stageAt(tree, at, p.File)
}

// stageAt attaches a detached mount at a path that it makes.
func stageAt(tree int, at string, file bool) error {
	err := os.MkdirAll(filepath.Dir(at), 0o711)
	switch {
	case err != nil:
	case file:
		err = os.WriteFile(at, nil, 0o600)
	default:
		err = os.MkdirAll(at, 0o755)
	}
	if err != nil {
		return stepError(StepMount, at, err, "cannot make the mount point "+at)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return stepError(StepMount, at, err, "cannot mount at "+at)
	}
	return nil
}

// Birthplace gives the process that Prepare has made for the spec, in whose user
// namespace another runtime starts the box; 0: there is none. release ends it.
func (r *Runtime) Birthplace(spec *Spec) (pid int, release func(), err error) {
	if spec.Users == nil {
		return 0, func() {}, nil
	}
	c, err := r.birthplace(spec)
	if err != nil || c == nil {
		return 0, func() {}, err
	}
	return c.pid, c.kill, nil
}

// InitFile is the tiny init of Spec.Init, in memory; it stays the runtime's.
func (r *Runtime) InitFile() (*os.File, error) { return r.tinyInit() }

// Unstage takes away what Stage has mounted in a folder. Nothing that is mounted
// is ever removed: what cannot be unmounted is an error.
func Unstage(dir string) error {
	points := []string{filepath.Join(dir, StagedRoot)}
	list, err := os.ReadDir(filepath.Join(dir, stagedMounts))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range list {
		points = append(points, filepath.Join(dir, stagedMounts, e.Name()))
	}
	var errs []error
	for _, p := range append(points, filepath.Join(dir, stagedMounts)) {
		for unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil { // until nothing is
		}
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) { // a folder only when it is empty
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// copyUp fills a new volume, the mount to or, without one, the bind's source, with
// what the root has at its target.
func copyUp(root string, m *Mount, to int) error {
	bad := func(err error) error {
		return stepError(StepMount, m.Target, err, "cannot copy what the image has at "+strconv.Quote(m.Target)+" into the new volume")
	}
	var err error
	if to < 0 {
		if to, err = unix.Open(m.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return bad(err)
		}
		defer unix.Close(to)
	}
	from, err := openInside(root, m.Target, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return m.give(to) // the image has nothing there
	}
	if err != nil {
		return bad(err)
	}
	defer unix.Close(from)
	_, err = elsewhere(func() (int, error) {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return -1, err
		}
		if m.Owners != nil { // the volume has no owner that is the host's root
			if err := m.Owners.ownFiles(); err != nil {
				return -1, err
			}
		}
		return -1, initproc.CopyUp(from, to)
	})
	if err != nil {
		return bad(err)
	}
	return m.give(to)
}

// give gives a new volume, the mount to, to whom it is for.
func (m *Mount) give(to int) error {
	if m.Give == nil {
		return nil
	}
	uid, gid, ok := m.Give.UID, m.Give.GID, true
	if m.Owners != nil {
		if uid, ok = HostID(m.Owners.UIDs, uid); ok {
			gid, ok = HostID(m.Owners.GIDs, gid)
		}
	}
	err := error(unix.EOVERFLOW) // no id of the mount's
	if ok {
		err = copytree.Give(to, uid, gid)
	}
	if err != nil {
		return stepError(StepMount, m.Target, err, "cannot give the volume at "+strconv.Quote(m.Target)+" to the container's user")
	}
	return nil
}

// openInside opens a path in a root, out of which no link leads.
func openInside(root, path string, flags uint64) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range 1000 {
		fd, err := unix.Openat2(dir, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename raced with ".."
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// Identity is who a program runs as.
type Identity struct {
	UID, GID int
	Groups   []uint32
	Home     string
}

// Identify resolves a process's user and groups by the databases inside a root
// directory, with init's words and rules.
func Identify(root string, p *Process) (Identity, error) {
	var who Identity
	_, err := elsewhere(func() (int, error) {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return -1, stepError(StepUser, p.User, err, "cannot look into the container's root")
		}
		if err := unix.Chroot(root); err != nil { // of this thread, which ends here
			return -1, stepError(StepUser, p.User, err, "cannot look into the container's root")
		}
		var err error
		who.UID, who.GID, who.Groups, who.Home, err = initproc.Identify(&plan.Process{User: p.User, AdditionalGroups: p.AdditionalGroups})
		return -1, err
	})
	return who, asError(err)
}

// asError turns an error of init's room into one of this.
func asError(err error) error {
	if p, ok := errors.AsType[*plan.Error](err); ok {
		return (*Error)(p)
	}
	return err
}

// Environment is the program's: with HOME where it is not set.
func (who Identity) Environment(env []string) []string {
	out := make([]string, 0, len(env)+1)
	home := false
	for _, kv := range env {
		if kv == "HOME=" { // as good as none
			continue
		}
		home = home || strings.HasPrefix(kv, "HOME=")
		out = append(out, kv)
	}
	if !home {
		out = append(out, "HOME="+who.Home)
	}
	return out
}

// Open opens a namespace that is joined, as a file of nsfs; name is the one in
// /proc/PID/ns.
func (ns Namespace) Open(name string) (*os.File, error) {
	path := ns.Path
	if ns.Of != nil {
		process, err := ns.Of.pidfd(name + " namespace")
		if err != nil {
			return nil, err
		}
		defer unix.Close(process)
		pid, err := pidOf(process)
		if err != nil {
			return nil, stepError(StepNamespace, name, err, "cannot find container "+ns.Of.ID+", whose "+name+" namespace is joined")
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err == nil && ended(process, 0) { // the number may have been another's
			f.Close()
			err = os.ErrProcessDone
		}
		if err != nil {
			return nil, stepError(StepNamespace, name, err, "cannot open the "+name+" namespace of container "+ns.Of.ID)
		}
		return f, nil
	}
	fd, err := openNamespace(name, ns)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// pidOf is the number of a pidfd's process (proc_pid_fdinfo(5)).
func pidOf(pidfd int) (int, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, os.ErrProcessDone
}

// RootedIn says whether a process's root is an overlay with this upper directory:
// it is the program itself, and not a machine that runs it.
func RootedIn(pid int, upper string) bool {
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	return err == nil && rootIs(mounts, upper, deviceOf(upper))
}
