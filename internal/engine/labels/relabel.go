package labels

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const attribute = "security.selinux"

// Relabel gives what is at path on the host, and below it, a label; "" leaves all
// as it is. A link at path is followed, none below: containers that have the
// place can swap folders for links meanwhile, so it goes from descriptor to
// descriptor. Files of file systems that hold no labels keep theirs.
// Error: InvalidArgument for the host's own folders.
func Relabel(path, subpath, label string) error {
	if label == "" {
		return nil
	}
	fd, err := open(path, subpath)
	if errors.Is(err, unix.ENOENT) { // the mount says so
		return nil
	}
	if err == nil {
		defer unix.Close(fd)
		err = refuseHosts(fd)
	}
	if err == nil {
		err = relabel(fd, label, deepest)
	}
	if err != nil {
		return fmt.Errorf("error setting label on mount source '%s': %w", filepath.Join(path, subpath), err) // dockerd's words
	}
	return nil
}

// RelabelFile does it to one file of the engine's own.
func RelabelFile(path, label string) error {
	if label == "" {
		return nil
	}
	if err := set(path, label); err != nil {
		return fmt.Errorf("set the label of %s: %w", path, err)
	}
	return nil
}

func open(path, subpath string) (int, error) {
	dir, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil || subpath == "" {
		return dir, err
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(dir, subpath, &how)
		if err == nil || err != unix.EINTR && err != unix.EAGAIN || tries > 1000 {
			return fd, err
		}
	}
}

// hosts are folders whose files the whole machine needs with their own labels
// (those of github.com/opencontainers/selinux).
var hosts = []string{"/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64", "/media", "/opt",
	"/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log"}

// OfHost says whether a folder, by its real path, is one of those.
func OfHost(folder string) bool {
	home, _ := os.UserHomeDir()
	return slices.Contains(hosts, folder) || folder == home
}

func refuseHosts(fd int) error {
	at, err := os.Readlink(name(fd))
	if err != nil {
		return err
	}
	if OfHost(at) {
		return invalid("SELinux relabeling of %s is not allowed", at)
	}
	return nil
}

func name(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// deepest bounds the folders that are open at once.
const deepest = 1000

// relabel does what fd (O_PATH) is last, as a mark that all below is done.
func relabel(fd int, label string, levels int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if levels == 0 {
			return fmt.Errorf("folders are nested more than %d deep: %w", deepest, unix.ELOOP)
		}
		if err := below(fd, label, levels-1); err != nil {
			return err
		}
	}
	return set(name(fd), label)
}

func below(fd int, label string, levels int) error {
	f, err := os.Open(name(fd))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		list, err := f.ReadDir(1000)
		for _, e := range list {
			if err := entry(fd, e.Name(), label, levels); err != nil && !errors.Is(err, unix.ENOENT) { // a file may go meanwhile
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func entry(dir int, file, label string, levels int) error {
	fd, err := unix.Openat(dir, file, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return relabel(fd, label, levels)
}

// set writes the label where it is another one: what is right may be on a
// read-only file system.
func set(path, label string) error {
	if has(path, label) {
		return nil
	}
	err := unix.Setxattr(path, attribute, []byte(label), 0)
	if err == unix.ENOTSUP {
		return nil
	}
	return err
}

func has(path, label string) bool {
	buf := make([]byte, len(label)+2)
	n, err := unix.Getxattr(path, attribute, buf)
	return err == nil && (string(buf[:n]) == label || string(buf[:n]) == label+"\x00")
}
