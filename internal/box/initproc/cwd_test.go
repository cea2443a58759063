package initproc

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEnterCwd: a descriptor of the host that had leaked would lead outside, and
// is found to (CVE-2024-21626). The tests of package box show that none leaks.
func TestEnterCwd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a root of its own needs root")
	}
	root := t.TempDir()
	if err := os.MkdirAll(root+"/proc", 0o755); err != nil {
		t.Fatal(err)
	}
	leaked, err := unix.Open("/etc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	inside, outside := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		for _, err := range []error{
			unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("/proc", root+"/proc", "", unix.MS_BIND, ""),
			unix.Chroot(root),
		} {
			if err != nil {
				inside <- err
				outside <- err
				return
			}
		}
		inside <- enterCwd("/proc")
		outside <- enterCwd("/proc/self/fd/" + strconv.Itoa(leaked))
	}()
	if err := <-inside; err != nil {
		t.Fatal(err)
	}
	if err := <-outside; err == nil || !strings.Contains(err.Error(), "is outside of the container's file system") {
		t.Errorf("got %v", err)
	}
}
