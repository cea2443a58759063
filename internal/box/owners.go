package box

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"hezi/internal/box/initproc"
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// mapOwners makes a detached mount show the owners of files as the user namespace
// says (mount_setattr(2), "ID-mapped mounts").
func mapOwners(mount, userns int, source string, recursive bool) error {
	at := uint(unix.AT_EMPTY_PATH)
	if recursive {
		at |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(mount, "", at, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)})
	if err == nil {
		return nil
	}
	message := "cannot map the owners of the files in " + source
	switch err {
	case unix.EINVAL:
		message += ": " + fsName(mount) + ", or what is mounted below, cannot do it on this kernel (ext4, xfs and btrfs can since Linux 5.12 to 5.15, tmpfs since 6.3): use --userns=host, or files of another file system"
	case unix.EPERM:
		message += ": it is a mount whose owners are mapped already"
	}
	return stepError(StepOwners, source, err, message)
}

// fsName names a file system as a person knows it.
func fsName(fd int) string {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return "the file system"
	}
	names := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse", unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs",
		unix.V9FS_MAGIC: "9p", unix.SMB2_SUPER_MAGIC: "cifs", unix.F2FS_SUPER_MAGIC: "f2fs", unix.DEVPTS_SUPER_MAGIC: "devpts",
		unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2", 0x2fc12fc1: "zfs"}
	if name := names[int64(st.Type)]; name != "" {
		return "the file system " + name
	}
	return fmt.Sprintf("a file system of the type %#x", st.Type)
}

// mapped clones the tree at dir, detached and with mapped owners.
func mapped(dir string, userns int) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, stepError(StepRoot, dir, err, "cannot open "+dir)
	}
	if err := mapOwners(fd, userns, dir, false); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountMapped makes the overlay of a box with users of its own: each layer, and
// the writable one, is mounted with its owners mapped, so nothing of it is
// changed on disk. The kernel makes what overlay needs of its own (work
// directories, whiteouts) as whoever mounts it, who must be one of the mapped
// users: the mount is made by a thread that is the box's root for files, with all
// capabilities kept.
func mountMapped(o *Overlay, users *Users, userns int, how func(*Overlay, int) (int, error)) (int, error) {
	return elsewhere(func() (int, error) {
		if err := users.ownFiles(); err != nil {
			return -1, stepError(StepRoot, "overlay", err, "cannot become the container's root to mount its file system")
		}
		return how(o, userns)
	})
}

// ownFiles has the calling thread, which must be one to throw away, make files as
// the box's root, with the capabilities that it has.
func (u *Users) ownFiles() error {
	const keep = 1 << 2 // SECBIT_NO_SETUID_FIXUP (capabilities(7))
	uid, gid, _ := u.Root()
	for _, c := range [][3]uintptr{{unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, keep}, {unix.SYS_SETFSGID, uintptr(gid), 0}, {unix.SYS_SETFSUID, uintptr(uid), 0}} {
		if _, _, errno := unix.RawSyscall(c[0], c[1], c[2], 0); errno != 0 {
			return errno
		}
	}
	return nil
}

// anyMapped mounts by descriptors where the kernel takes them (Linux 6.15), else by paths.
func anyMapped(o *Overlay, userns int) (int, error) {
	fd, err := mappedByDescriptor(o, userns)
	if e, ok := err.(*Error); ok && e.Step == StepRoot && (e.Errno == int(unix.EINVAL) || e.Errno == int(unix.EBADF) || e.Errno == int(unix.EOPNOTSUPP)) { // the last before Linux 6.5
		return mappedByPath(o, userns)
	}
	return fd, err
}

func mappedByDescriptor(o *Overlay, userns int) (int, error) {
	var trees []int
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	// tree gives dir in a mapped mount of top, by whose path below it the kernel shows it.
	tree := func(top string, dirs ...string) ([]int, error) {
		fd, err := mapped(top, userns)
		if err != nil {
			return nil, err
		}
		trees = append(trees, fd)
		var out []int
		for _, dir := range dirs {
			rel, err := filepath.Rel(top, dir)
			if err != nil {
				return nil, err
			}
			at, err := unix.Openat(fd, rel, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, stepError(StepRoot, dir, err, "cannot open "+dir)
			}
			trees = append(trees, at)
			out = append(out, at)
		}
		return out, nil
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, stepError(StepRoot, "overlay", err, "the kernel cannot mount overlay file systems (is the module there? `modprobe overlay`)")
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", "overlay"); err != nil {
		return -1, overlayError(fs, o, err)
	}
	for _, dir := range o.Lower {
		at, err := tree(dir, dir)
		if err != nil {
			return -1, err
		}
		if err := unix.FsconfigSetFd(fs, "lowerdir+", at[0]); err != nil {
			return -1, overlayError(fs, o, err)
		}
	}
	if o.Upper != "" {
		at, err := tree(commonDir([]string{filepath.Dir(o.Upper), filepath.Dir(o.Work)}), o.Upper, o.Work)
		if err != nil {
			return -1, err
		}
		for i, key := range []string{"upperdir", "workdir"} {
			if err := unix.FsconfigSetFd(fs, key, at[i]); err != nil {
				return -1, overlayError(fs, o, err)
			}
		}
	}
	return finishOverlay(fs, o)
}

// mappedByPath does it for older kernels: the mapped mounts get paths in a mount
// namespace that only this thread is in, on a file system that covers the
// container's folder there.
func mappedByPath(o *Overlay, userns int) (int, error) {
	fail := func(err error) (int, error) { return -1, overlayError(-1, o, err) }
	tops := append([]string{}, o.Lower...)
	below := Overlay{Volatile: o.Volatile, Label: o.Label}
	top := ""
	if o.Upper != "" {
		top = commonDir([]string{filepath.Dir(o.Upper), filepath.Dir(o.Work)})
		tops = append(tops, top)
	}
	trees := make([]int, 0, len(tops))
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	for _, dir := range tops {
		fd, err := mapped(dir, userns)
		if err != nil {
			return -1, err
		}
		trees = append(trees, fd)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fail(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(err)
	}
	base := filepath.Dir(tops[len(tops)-1])
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "mode=700"); err != nil {
		return fail(err)
	}
	for i, fd := range trees {
		at := filepath.Join(base, strconv.Itoa(i))
		if err := unix.Mkdir(at, 0o700); err != nil {
			return fail(err)
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fail(err)
		}
		if tops[i] != top {
			below.Lower = append(below.Lower, at)
			continue
		}
		below.Upper, below.Work = at+strings.TrimPrefix(o.Upper, top), at+strings.TrimPrefix(o.Work, top)
	}
	fd, err := mountPrivately(&below)
	if e, ok := err.(*Error); ok && e.Errno == int(unix.EINVAL) {
		e.Message += " (layers with mapped owners need Linux 5.19 or newer: without it use --userns=host)"
	}
	return fd, err
}

// devices makes /dev of a box with users of its own: inside, nobody can make a
// device. The file system is the host's, and so the devices in it work.
func (b *bundle) devices(m *plan.Mount, list []Device, users *Users) error {
	uid, gid, _ := users.Root()
	fd, err := initproc.NewLabelled("tmpfs", fmt.Sprintf("%s,uid=%d,gid=%d", m.Data, uid, gid), b.plan.FileLabel, m.Set&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return stepError(StepMount, "/dev", err, "cannot make a file system for /dev")
	}
	m.FD = b.give(fd)
	all := make([]plan.Device, 0, len(list)+8)
	for _, d := range initproc.DefaultDevices() {
		d.Path = "/dev/" + d.Path
		all = append(all, d)
	}
	for i := range list {
		all = append(all, planDevice(&list[i]))
	}
	for i := range all {
		d := &all[i]
		rel, ok := strings.CutPrefix(path.Clean(d.Path), "/dev/")
		if !ok {
			return stepError(StepDevice, d.Path, nil, "a container in a user namespace has devices in /dev alone: "+d.Path+" cannot be made there (--userns=host)")
		}
		if err := makeDevice(fd, rel, d, users); err != nil {
			return stepError(StepDevice, d.Path, err, "cannot make the device "+d.Path)
		}
	}
	return nil
}

// makeDevice makes a device in a file system that nobody else sees yet.
func makeDevice(dir int, rel string, d *plan.Device, users *Users) error {
	root, rootGroup, _ := users.Root()
	for i := range len(rel) {
		if rel[i] != '/' {
			continue
		}
		if err := unix.Mkdirat(dir, rel[:i], 0o755); err == nil {
			err = unix.Fchownat(dir, rel[:i], int(root), int(rootGroup), unix.AT_SYMLINK_NOFOLLOW)
			if err != nil {
				return err
			}
		} else if err != unix.EEXIST {
			return err
		}
	}
	err := unix.Mknodat(dir, rel, d.Mode, int(unix.Mkdev(d.Major, d.Minor)))
	if err == unix.EEXIST {
		return nil // the same twice; init checks what it is
	}
	if err == nil {
		err = unix.Fchmodat(dir, rel, d.Mode&0o7777, 0) // whatever the umask is
	}
	if err != nil {
		return err
	}
	uid, okU := HostID(users.UIDs, d.UID)
	gid, okG := HostID(users.GIDs, d.GID)
	if !okU || !okG {
		uid, gid = root, rootGroup
	}
	return unix.Fchownat(dir, rel, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}
