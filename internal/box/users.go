package box

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hezi/internal/box/cgroup"
	"hezi/internal/box/initproc"
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// IDMap maps the Size ids from Container on to those from Host on, as a line of
// uid_map does (user_namespaces(7)).
type IDMap struct{ Container, Host, Size uint32 }

// Users are the ids of a user namespace.
type Users struct{ UIDs, GIDs []IDMap }

// Root is who root inside is on the host.
func (u *Users) Root() (uid, gid uint32, ok bool) {
	uid, okU := HostID(u.UIDs, 0)
	gid, okG := HostID(u.GIDs, 0)
	return uid, gid, okU && okG
}

// HostID is the id on the host of one inside; false: it has none.
func HostID(maps []IDMap, id uint32) (uint32, bool) {
	for _, m := range maps {
		if id >= m.Container && id-m.Container < m.Size {
			return m.Host + (id - m.Container), true
		}
	}
	return 0, false
}

func procMaps(maps []IDMap) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range maps {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Size)})
	}
	return out
}

func planMaps(maps []IDMap) []plan.IDMap {
	var out []plan.IDMap
	for _, m := range maps {
		out = append(out, plan.IDMap(m))
	}
	return out
}

// become has a child be root of a new user namespace, which is made before its
// other new namespaces and so owns them.
func (u *Users) become(attr *syscall.SysProcAttr, anyUser bool) error {
	_, _, rooted := u.Root()
	if !rooted && !anyUser {
		return stepError(StepNamespace, "user", nil, "the user namespace has no root: map the ids from 0 on")
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = procMaps(u.UIDs), procMaps(u.GIDs), true
	if rooted {
		attr.Credential = &syscall.Credential{}
	}
	return nil
}

// waiting are the inits of boxes that were prepared, by the boxes' ids.
type waiting struct {
	*child
	users *Users
	timer *time.Timer
}

// preparedTime is for whoever fills the network namespace of a prepared box.
const preparedTime = time.Minute

// Prepare makes the init and the namespaces of a box before its Start: for the
// network namespace of one with users of its own to be filled from outside (it
// cannot be one that was made before, which would belong to the host's users),
// and for systemd to make the scope that init is in. It is ended when no Start of
// the same id comes within a minute, and with the keeper: Start then fails with
// StepPrepared, and all is to be done again. hooked says that the box will have
// hooks. The answer is init's pid.
func (r *Runtime) Prepare(id string, users *Users, n *Namespaces, hooked bool) (int, error) {
	b, err := birthOf(n, users, hooked)
	if err != nil {
		return 0, err
	}
	defer b.close()
	c, err := r.spawn(b)
	if err != nil {
		return 0, err
	}
	w := &waiting{child: c, users: users}
	r.mu.Lock()
	old := r.waiting[id]
	r.waiting[id] = w
	w.timer = time.AfterFunc(preparedTime, func() {
		if r.prepared(id, w) != nil {
			w.kill()
		}
	})
	r.mu.Unlock()
	if old != nil {
		old.timer.Stop()
		old.kill()
	}
	return c.pid, nil
}

// prepared takes the init that was prepared for a box, or nil; only, if it is not nil,
// is the one wanted.
func (r *Runtime) prepared(id string, only *waiting) *waiting {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.waiting[id]
	if w == nil || only != nil && w != only {
		return nil
	}
	delete(r.waiting, id)
	w.timer.Stop()
	return w
}

// birthplace gives a prepared init for the spec, or says what one is born into.
func (r *Runtime) birthplace(spec *Spec) (*child, error) {
	w := r.prepared(spec.ID, nil)
	net := spec.Namespaces.Net
	if w == nil && (net.Mode != NamespaceJoin || net.Of != nil) {
		return nil, nil // nothing was filled for it
	}
	if w == nil || !reflect.DeepEqual(w.users, spec.Users) || !w.alive() {
		if w != nil {
			w.kill()
		}
		return nil, stepError(StepPrepared, spec.ID, nil, "the namespaces that were prepared for the container are gone: start it again")
	}
	return w.child, nil
}

// namespaceOf opens the user namespace that maps ids as u says: the box's own, or
// one that nobody is in.
func (r *Runtime) namespaceOf(u *Users, box *child, boxUsers *Users) (int, error) {
	if box != nil && reflect.DeepEqual(u, boxUsers) {
		return openNamespace("user", Namespace{Path: fmt.Sprintf("/proc/%d/ns/user", box.pid)})
	}
	attr := joinBirth()
	attr.users, attr.anyUser = u, true
	c, err := r.spawn(attr)
	if err != nil {
		return -1, err
	}
	defer c.kill()
	return openNamespace("user", Namespace{Path: fmt.Sprintf("/proc/%d/ns/user", c.pid)})
}

// outside does what only the host's root can for an init in a user namespace.
func (b *bundle) outside(spec *Spec, c *child, stdio Stdio) error {
	p := &b.plan.Process
	b.plan.User, b.plan.UIDs, b.plan.GIDs = true, planMaps(spec.Users.UIDs), planMaps(spec.Users.GIDs)
	if p.HasOOMScoreAdj {
		value := strconv.Itoa(p.OOMScoreAdj)
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.pid), []byte(value), 0); err != nil {
			return stepError(StepRlimit, "oom_score_adj", err, "cannot set the OOM score adjustment to "+value+" (lowering it needs CAP_SYS_RESOURCE)")
		}
		p.HasOOMScoreAdj = false
	}
	b.limits, p.Rlimits = p.Rlimits, nil
	uid, gid, _ := spec.Users.Root()
	for _, f := range []*os.File{stdio.Stdin, stdio.Stdout, stdio.Stderr} {
		var st unix.Stat_t
		if f == nil || unix.Fstat(rawFD(f), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue
		}
		if err := unix.Fchown(rawFD(f), int(uid), int(gid)); err != nil {
			return stepError(StepTerminal, "", err, "cannot give the standard streams to the container's root")
		}
	}
	return nil
}

// raise sets the resource limits of a prepared program: in its user namespace
// it could only lower them.
func (b *bundle) raise(pid int) error {
	for _, l := range b.limits {
		if err := unix.Prlimit(pid, l.Resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return stepError(StepRlimit, l.Name, err, initproc.LimitText(&l))
		}
	}
	return nil
}

// delegate gives a cgroup that the box may write to its root (cgroups(7)).
func delegate(spec *Spec, paths map[string]string) error {
	dir := paths[""]
	writable := slices.ContainsFunc(spec.Mounts, func(m Mount) bool { return m.Type == MountCgroup && !m.ReadOnly })
	if dir == "" || !writable || spec.Namespaces.Cgroup.Mode != NamespaceNew {
		return nil
	}
	uid, gid, _ := spec.Users.Root()
	if err := cgroup.Delegate(dir, int(uid), int(gid)); err != nil {
		return stepError(StepCgroup, dir, err, "cannot give the container's cgroup to its root")
	}
	return nil
}

// joinUsers has a join enter the user namespace of the box, if it has one: the
// kernel is asked, since who enters without it is root of the host.
func (b *bundle) joinUsers(pid, pidfd int) error {
	var its, ours unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/ns/user", pid), &its)
	if err == nil {
		err = unix.Stat("/proc/self/ns/user", &ours)
	}
	if err != nil {
		return stepError(StepNamespace, "user", err, "cannot find the container's user namespace (is it still running?)")
	}
	if its.Ino == ours.Ino {
		return nil
	}
	users, err := UsersOf(fmt.Sprintf("/proc/%d", pid))
	if err != nil || ended(pidfd, 0) {
		return stepError(StepNamespace, "user", err, "cannot read the ids of the container's user namespace (is it still running?)")
	}
	b.plan.UIDs, b.plan.GIDs = planMaps(users.UIDs), planMaps(users.GIDs)
	b.plan.UserFD = b.lend(pidfd)
	return nil
}

// UsersOf are the ids of the user namespace that a process is in, by its directory in /proc.
func UsersOf(dir string) (*Users, error) {
	u := &Users{}
	var err error
	if u.UIDs, err = readMaps(dir + "/uid_map"); err == nil {
		u.GIDs, err = readMaps(dir + "/gid_map")
	}
	return u, err
}

func readMaps(file string) ([]IDMap, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []IDMap
	for line := range strings.Lines(string(text)) {
		var m IDMap
		if _, err := fmt.Sscan(line, &m.Container, &m.Host, &m.Size); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, m)
	}
	return out, nil
}
