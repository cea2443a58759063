package box

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hezi/internal/box/initproc"
)

// Attach mounts what is asked for in a box that runs (Enter), on places that are made
// where they are missing; volumes are not filled. userns is the box's own user
// namespace, with users, or nil. label is the SELinux label of file systems that are made.
// What was mounted before a failure stays: Detach takes it away.
func (i *Inside) Attach(mounts []Mount, users *Users, userns *os.File, label string) error {
	b := newBundle()
	defer func() { b.close() }()
	b.plan.FileLabel = label
	spec := Spec{Mounts: mounts, Users: users}
	if userns != nil {
		b.userns = rawFD(userns)
	}
	for n := range mounts {
		m := &mounts[n]
		m.CopyUp = false
		switch {
		case m.Type == MountImage && m.Subpath != "":
			return stepError(StepMount, m.Target, nil, "a part of an image (image-subpath) can be mounted only when the container starts")
		case m.Owners == nil:
		case users != nil && userns != nil && slices.Equal(m.Owners.UIDs, users.UIDs) && slices.Equal(m.Owners.GIDs, users.GIDs):
			b.owners[m] = b.userns
		default:
			return stepError(StepMount, m.Target, nil, "owners are mapped (idmap, match-user) only when the container starts")
		}
		if m.Type == MountTmpfs && users != nil { // it belongs to the engine's namespace: its root is the box's
			uid, gid, _ := users.Root()
			m.Data = strings.TrimPrefix(fmt.Sprintf("%s,uid=%d,gid=%d", m.Data, uid, gid), ",")
		}
	}
	if err := b.mounts(&spec); err != nil {
		return err
	}
	_, err := elsewhere(func() (int, error) {
		if err := enterMounts(i.namespace, i.upper); err != nil {
			return -1, err
		}
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("the container's root file system: %w", err)
		}
		defer unix.Close(root)
		if users != nil {
			if err := users.ownFiles(); err != nil {
				return -1, fmt.Errorf("make mount points as the container's root: %w", err)
			}
		}
		b.owned = nil // theirs by now
		if err := initproc.Attach(root, &b.plan, b.files); err != nil {
			return -1, asError(err)
		}
		return -1, nil
	})
	return err
}

func lookInside(root int, p string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(root, p, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// Detach takes away what is mounted at target in a box that runs, though it be in
// use. Its place must be the one that target names, with no link that leads
// elsewhere, or what is mounted there be source: the box could have the engine take
// away what hides something from it. Error: os.ErrNotExist when nothing is mounted there.
func (i *Inside) Detach(target, source string) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("unmount %s in the container: %s: %w", target, what, err)
	}
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the host's processes: %w", err)
	}
	defer unix.Close(proc)
	return i.at(target, source, fail, func(at int, same bool) error {
		if err := unix.Fchdir(proc); err != nil {
			return fail("the host's processes", err)
		}
		self := fmt.Sprintf("thread-self/fd/%d", at)
		name, err := os.Readlink(self)
		if err != nil {
			return fail("find its place", err)
		}
		if name != path.Clean("/"+target) && !same {
			return fail("the path leads to "+name+" now, which may be something else: stop the container first", os.ErrPermission)
		}
		if err := unix.Unmount(self, unix.MNT_DETACH); err != nil {
			return fail("umount", err)
		}
		return nil
	})
}

// Shows says whether what is mounted at target in a box that runs is the host's path
// source. Error: os.ErrNotExist when nothing is mounted there.
func (i *Inside) Shows(target, source string) (same bool, err error) {
	fail := func(what string, err error) error {
		return fmt.Errorf("look at %s in the container: %s: %w", target, what, err)
	}
	err = i.at(target, source, fail, func(_ int, is bool) error { same = is; return nil })
	return same, err
}

// at calls f in a box that runs with what is mounted at target, open, and whether that
// is the host's path source.
func (i *Inside) at(target, source string, fail func(what string, err error) error, f func(at int, same bool) error) error {
	var shown unix.Stat_t // by the path of the host's, of which a thread in the box knows nothing
	if source != "" && unix.Stat(source, &shown) != nil {
		source = ""
	}
	_, err := elsewhere(func() (int, error) {
		if err := enterMounts(i.namespace, i.upper); err != nil {
			return -1, err
		}
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fail("open its root", err)
		}
		defer unix.Close(root)
		at, err := lookInside(root, target)
		if err != nil {
			return -1, fail("open it", err)
		}
		defer unix.Close(at)
		var st unix.Statx_t
		if err := unix.Statx(at, "", unix.AT_EMPTY_PATH, unix.STATX_INO, &st); err != nil {
			return -1, fail("look at it", err)
		}
		if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return -1, fail("nothing is mounted there", os.ErrNotExist)
		}
		return -1, f(at, source != "" && same(&st, &shown))
	})
	return err
}

func same(a *unix.Statx_t, b *unix.Stat_t) bool {
	return a.Ino == b.Ino && a.Dev_major == unix.Major(uint64(b.Dev)) && a.Dev_minor == unix.Minor(uint64(b.Dev))
}
