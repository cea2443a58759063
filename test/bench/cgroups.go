package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const private = "HEZI_BENCH_PRIVATE"

// hideUnified starts this program again in a mount namespace without
// the second, empty cgroup hierarchy of a hybrid host: crun refuses to run
// beside it. All contenders run in that namespace.
func hideUnified() error {
	const unified = "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if os.Getenv(private) != "" || unix.Statfs(unified, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("a mount namespace of the bench's own: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("a mount namespace of the bench's own: %w", err)
	}
	if err := unix.Unmount(unified, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("hide %s: %w", unified, err)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), private+"=1"))
}
