// Package initbin holds the programs that start containers, embedded:
// hezi-init, hezi-tiny and hezi-enter. All containers run the same copy of each, and a
// process inside reaches it as /proc/PID/exe. So they lie on a file system in
// memory that nobody can reach, behind a mount that is read-only: nothing inside
// can overwrite them (CVE-2019-5736), nor take their mode, owner or access list
// from the next container, against which a sealed memfd has no seal.
package initbin

import (
	"embed"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

//go:embed all:bin
var programs embed.FS

// Init gives hezi-init, open for reading.
func Init() (*os.File, error) { return program("hezi-init") }

// Tiny gives hezi-tiny, which --init puts before the program. Every user may
// execute it. label is the SELinux label that it is to have, or "".
func Tiny(label string) (*os.File, error) { return labelled("hezi-tiny", label) }

// Enter gives hezi-enter, which starts hezi-init in a user namespace that is there.
func Enter() (*os.File, error) { return program("hezi-enter") }

func program(name string) (*os.File, error) { return labelled(name, "") }

func labelled(name, label string) (*os.File, error) {
	text, err := programs.ReadFile("bin/" + name)
	if err != nil {
		return nil, fmt.Errorf("%s is not embedded in this program: build it with `make build`, not with go build alone", name)
	}
	file, err := readOnly(name, label, text)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory for %s: %w", name, err)
	}
	return file, nil
}

// readOnly is a file on a tmpfs of its own that is never attached: once the
// mount is read-only and its descriptor closed, only the file itself is left.
func readOnly(name, label string, text []byte) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if label != "" {
		if err := unix.FsconfigSetString(fs, "context", label); err != nil {
			return nil, fmt.Errorf("the SELinux label %q: %w", label, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	if err := write(dir, name, text); err != nil {
		return nil, err
	}
	err = unix.MountSetattr(dir, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		return nil, fmt.Errorf("%w (Linux 5.12 or newer is needed)", err)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return raise(fd, name)
}

func write(dir int, name string, text []byte) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o555)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err := file.Write(text); err != nil {
		file.Close()
		return err
	}
	// Root of a user namespace that may not read what it executes cannot look at
	// it while it runs either: a box's init is its programs' no more than the host's.
	mode := os.FileMode(0o111)
	if name == "hezi-tiny" {
		mode = 0o555 // it is the container's own first process
	}
	if err := file.Chmod(mode); err != nil { // whatever the umask is
		file.Close()
		return err
	}
	return file.Close()
}

// Memfd is a sealed file in memory.
func Memfd(name string, text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // MFD_NOEXEC_SEAL is from Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory for %s: %w", name, err)
	}
	low := os.NewFile(uintptr(fd), name)
	defer low.Close()
	if _, err := low.Write(text); err != nil {
		return nil, fmt.Errorf("cannot write %s into memory: %w", name, err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("cannot seal %s: %w", name, err)
	}
	return raise(fd, name)
}

// raise keeps fd open under a high number, so that no child's set of standard
// descriptors falls on it.
func raise(fd int, name string) (*os.File, error) {
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return nil, fmt.Errorf("cannot keep %s open: %w", name, err)
	}
	return os.NewFile(uintptr(high), name), nil
}
