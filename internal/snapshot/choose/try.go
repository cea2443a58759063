package choose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/snapshot/erofs"
	"hezi/internal/snapshot/plain"
)

// FuseProgram is what fuse-overlayfs runs.
const FuseProgram = "fuse-overlayfs"

const trialPrefix = ".trying-"

// Try uses a driver in a data root. The error says what failed, why, and what to do.
func Try(driver, root string) (err error) {
	dir, err := os.MkdirTemp(root, trialPrefix)
	if err != nil {
		return explainRoot(root, err)
	}
	defer func() {
		if rerr := os.RemoveAll(dir); rerr != nil && err == nil {
			err = rerr
		}
	}()
	switch driver {
	case "overlay2":
		err = tryOverlay(dir, filepath.Join(dir, "lower"))
	case "fuse-overlayfs":
		err = tryFuse(dir)
	case "erofs":
		err = tryErofs(dir)
	case "btrfs":
		err = tryTrees(dir, plain.Subvolumes{})
	case "vfs":
		err = tryTrees(dir, plain.Copies{})
	}
	if noRoom(err) {
		return explainRoot(root, err)
	}
	return err
}

func noRoom(err error) bool {
	return full(err) || errors.Is(err, unix.EROFS)
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// explainRoot is for a data root in which nothing can be made.
func explainRoot(root string, err error) error {
	var st unix.Statfs_t
	switch {
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("the data root %s is on a file system that is mounted read-only (after an error of the disk? `dmesg` tells): mount it writable, or give another --data-root: %w", root, err)
	case errors.Is(err, unix.ENOSPC) && unix.Statfs(root, &st) == nil && st.Files > 0 && st.Ffree == 0:
		return fmt.Errorf("the file system of the data root %s has no inodes left, though it may have space: remove files, or make it anew with more inodes (mkfs.ext4 -N): %w", root, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("the file system of the data root %s is full: remove files, or give another --data-root: %w", root, err)
	}
	return fmt.Errorf("the data root %s cannot be used: %w", root, err)
}

// image makes what a trial has as its lower layer: a file that is to be hidden, one
// that is to be changed, and a directory that is to be made anew.
func image(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"gone", "changed", "sub/below"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// places makes the directories of a trial.
func places(dir string) error {
	for _, name := range []string{"base", "fs", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// tryOverlay mounts where nobody sees it; lower is made if it is not there.
func tryOverlay(dir, lower string) error {
	if err := places(dir); err != nil {
		return err
	}
	if _, err := os.Lstat(lower); errors.Is(err, fs.ErrNotExist) {
		if err := image(lower); err != nil {
			return err
		}
	}
	fsctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	switch {
	case errors.Is(err, unix.ENODEV):
		return errdefs.ErrFailedPrecondition.WithMessage("the kernel has no overlay file system: load its module with `modprobe overlay` (and write overlay into /etc/modules-load.d/overlay.conf)")
	case errors.Is(err, unix.EPERM):
		return errdefs.ErrFailedPrecondition.WithMessage("mounting is not permitted: hezid needs to be root with CAP_SYS_ADMIN (in a container: --privileged)")
	case err != nil:
		return fmt.Errorf("overlay cannot be tried: %w", err)
	}
	unix.Close(fsctx)
	if typed, err := entryTypes(dir); err != nil {
		return err
	} else if !typed {
		return overlayCannot(dir, "it does not tell the types of directory entries (d_type)", "xfs must be made with ftype=1 (mkfs.xfs -n ftype=1), which cannot be changed later")
	}
	if err := attributes(filepath.Join(dir, "fs")); err != nil {
		return err
	}
	o := &box.Overlay{Lower: []string{lower, filepath.Join(dir, "base")}, Upper: filepath.Join(dir, "fs"), Work: filepath.Join(dir, "work")}
	in, err := box.Assemble(&box.Root{Overlay: o}, nil, false)
	if err != nil {
		return overlayMount(dir, err)
	}
	defer in.Close()
	return in.Do(nil, func() error { return stacked(dir, in.Root) })
}

// overlayMount explains a mount that failed; errors of the box have no class.
func overlayMount(dir string, err error) error {
	if refused(err) {
		return overlayCannot(dir, "SELinux refuses the mount: "+err.Error(), "give the data root the label of container files (semanage fcontext -a -t container_var_lib_t 'DATAROOT(/.*)?'; restorecon -R DATAROOT); `ausearch -m avc` says what was refused")
	}
	if step, ok := errors.AsType[*box.Error](err); ok && noRoom(unix.Errno(step.Errno)) {
		return unix.Errno(step.Errno)
	}
	return overlayCannot(dir, err.Error(), "")
}

// refused says whether SELinux may be the reason of an error.
func refused(err error) bool {
	b, rerr := os.ReadFile("/sys/fs/selinux/enforce")
	return rerr == nil && strings.TrimSpace(string(b)) == "1" && strings.Contains(err.Error(), unix.EACCES.Error())
}

// overlayCannot names the file system, why it cannot be, and what to do.
func overlayCannot(dir, why, what string) error {
	name, about := filesystem(dir)
	if about != "" {
		why = about + ": " + why
	}
	if what == "" {
		what = "give --data-root on ext4, xfs (made with ftype=1) or btrfs"
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the file system of the data root (%s) cannot hold the layers of an overlay: %s: %s, or use --storage-driver=fuse-overlayfs or vfs", name, why, what))
}

// filesystem names what a directory is on, and what is known of it.
func filesystem(dir string) (name, about string) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return "unknown", ""
	}
	switch int64(st.Type) {
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay", "overlays are not stacked on overlays (hezid runs in a container? mount a volume at its data root)"
	case unix.NFS_SUPER_MAGIC:
		return "nfs", "NFS has neither the extended attributes nor the renames that overlay needs"
	case unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return "cifs", "a network share has not what overlay needs"
	case unix.MSDOS_SUPER_MAGIC:
		return "vfat", "FAT has no owners, links and attributes at all, and can hold no containers"
	case unix.ECRYPTFS_SUPER_MAGIC:
		return "ecryptfs", "overlay refuses encrypted folders of eCryptfs"
	case 0x2fc12fc1:
		return "zfs", "ZFS can hold overlays since OpenZFS 2.2"
	}
	names := map[int64]string{unix.FUSE_SUPER_MAGIC: "fuse", unix.V9FS_MAGIC: "9p", unix.XFS_SUPER_MAGIC: "xfs",
		unix.EXT4_SUPER_MAGIC: "ext", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs"}
	if n := names[int64(st.Type)]; n != "" {
		return n, ""
	}
	return fmt.Sprintf("type %#x", st.Type), ""
}

// entryTypes says whether a directory's entries tell what they are (getdents64(2)).
func entryTypes(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := unix.Getdents(int(f.Fd()), buf)
	if err != nil {
		return false, fmt.Errorf("list %s: %w", dir, err)
	}
	for b := buf[:n]; len(b) > 19; { // struct linux_dirent64
		size := int(b[16]) | int(b[17])<<8
		if size == 0 || size > len(b) {
			break
		}
		if b[18] == unix.DT_UNKNOWN {
			return false, nil
		}
		b = b[size:]
	}
	return true, nil
}

// attributes tries the extended attributes in which overlay keeps its own.
func attributes(dir string) error {
	const name = "trusted.overlay.hezi"
	err := unix.Setxattr(dir, name, []byte("y"), 0)
	if err == nil {
		err = unix.Removexattr(dir, name)
	}
	switch {
	case err == nil || noRoom(err):
		return err
	case errors.Is(err, unix.ENOTSUP):
		return overlayCannot(dir, "it has no extended attributes trusted.*", "")
	case errors.Is(err, unix.EPERM):
		return overlayCannot(dir, "extended attributes trusted.* are not permitted: hezid needs CAP_SYS_ADMIN in the host's user namespace", "run hezid as the host's root")
	}
	return overlayCannot(dir, "extended attributes trusted.* do not work: "+err.Error(), "")
}

// stacked does in a mounted trial what containers do: remove, change, rename, and
// make anew a directory that was.
func stacked(dir string, merged *os.File) error {
	fd := int(merged.Fd())
	const whiteout, copyUp, opaque = "the removal of a file of the image (a whiteout)", "a change of a file of the image (a copy-up)", "a directory of the image, removed and made anew (opaque)"
	fail := func(what string, err error) error {
		if noRoom(err) {
			return err
		}
		return overlayCannot(dir, fmt.Sprintf("%s fails: %v", what, err), "")
	}
	if err := unix.Unlinkat(fd, "gone", 0); err != nil {
		return fail(whiteout, err)
	}
	if err := unix.Faccessat(fd, "gone", unix.F_OK, 0); !errors.Is(err, unix.ENOENT) {
		return fail(whiteout, errors.New("the file is still there"))
	}
	f, err := unix.Openat(fd, "changed", unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(copyUp, err)
	}
	_, err = unix.Write(f, []byte("y"))
	if err = errors.Join(err, unix.Close(f)); err != nil {
		return fail(copyUp, err)
	}
	if err := unix.Renameat(fd, "changed", fd, "renamed"); err != nil {
		return fail("a rename of a file of the image", err)
	}
	if err := errors.Join(unix.Unlinkat(fd, "sub/below", 0), unix.Unlinkat(fd, "sub", unix.AT_REMOVEDIR), unix.Mkdirat(fd, "sub", 0o755)); err != nil {
		return fail(opaque, err)
	}
	if err := unix.Faccessat(fd, "sub/below", unix.F_OK, 0); !errors.Is(err, unix.ENOENT) {
		return fail(opaque, errors.New("what was in it shows up again"))
	}
	return nil
}

func tryFuse(dir string) (err error) {
	if err := errors.Join(places(dir), image(filepath.Join(dir, "lower"))); err != nil {
		return err
	}
	program, err := exec.LookPath(FuseProgram)
	if err != nil {
		return errdefs.ErrFailedPrecondition.WithMessage("the program fuse-overlayfs is missing: install the package fuse-overlayfs")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return errdefs.ErrFailedPrecondition.WithMessage("/dev/fuse is missing: load the module with `modprobe fuse` (in a container: --device /dev/fuse)")
	}
	at := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(dir, "lower"), filepath.Join(dir, "fs"), filepath.Join(dir, "work"))
	if out, err := exec.Command(program, "-o", options, at).CombinedOutput(); err != nil {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s cannot mount in the data root: %v: %s", program, err, strings.TrimSpace(string(out))))
	}
	defer func() { err = errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)) }()
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	return stacked(dir, f)
}

func tryErofs(dir string) (err error) {
	lower := filepath.Join(dir, "layer", "fs")
	if err := image(lower); err != nil {
		return err
	}
	if _, err := erofs.Seal(context.Background(), lower); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(lower, unix.MNT_DETACH)) }()
	return tryOverlay(dir, lower)
}

// tryTrees makes a tree and a copy of it.
func tryTrees(dir string, kind plain.Kind) (err error) {
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if err := kind.Make(one); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kind.Delete(one), kind.Delete(two)) }()
	fail := func(what string, err error) error {
		if noRoom(err) {
			return err
		}
		name, about := filesystem(dir)
		if about != "" {
			name += ", " + about
		}
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the file system of the data root (%s) cannot hold the files of images: %s: %v: give --data-root on another one", name, what, err))
	}
	file := filepath.Join(one, "file")
	if err := os.WriteFile(file, []byte("x"), 0o640); err != nil {
		return fail("no file can be made", err)
	}
	if err := os.Symlink("file", filepath.Join(one, "link")); err != nil {
		return fail("it has no symbolic links", err)
	}
	if err := errors.Join(os.Chmod(file, 0o640), os.Lchown(file, 1, 2)); err != nil {
		return fail("it has no owners", err)
	}
	if err := kind.Copy(context.Background(), one, two); err != nil {
		return fail("a tree cannot be copied", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(two, "file"), &st); err != nil {
		return fail("a tree cannot be copied", err)
	}
	if st.Uid != 1 || st.Gid != 2 || st.Mode&0o777 != 0o640 {
		return fail("it does not keep owners and rights", fmt.Errorf("1:2 640 became %d:%d %o", st.Uid, st.Gid, st.Mode&0o7777))
	}
	return nil
}
