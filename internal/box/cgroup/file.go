package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// read gives a file of a cgroup without the space around it.
func read(dir, name string) (string, error) {
	fd, err := openRetry(filepath.Join(dir, name), unix.O_RDONLY)
	if err != nil {
		return "", fmt.Errorf("cannot read %s of the cgroup %s: %w", name, dir, err)
	}
	defer unix.Close(fd)
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("cannot read %s of the cgroup %s: %w", name, dir, err)
		}
		if n == 0 {
			return strings.TrimSpace(string(all)), nil
		}
		all = append(all, buf[:n]...)
	}
}

// write writes a file of a cgroup in one call, as the kernel wants it.
func write(dir, name, value string) error {
	fd, err := openRetry(filepath.Join(dir, name), unix.O_WRONLY)
	if err == nil {
		err = writeFD(fd, value)
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("cannot write %q to %s of the cgroup %s: %w%s", value, name, dir, err, hint(err))
	}
	return nil
}

func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func writeFD(fd int, value string) error {
	for {
		_, err := unix.Write(fd, []byte(value))
		if err != unix.EINTR {
			return err
		}
	}
}

// rmdir removes one empty cgroup. The kernel lets go of a process a moment
// after its end was seen, so EBUSY is tried again for half a second.
func rmdir(dir string) error {
	if err := rmdirAt(unix.AT_FDCWD, dir); err != nil {
		return fmt.Errorf("cannot remove the cgroup %s: %w", dir, err)
	}
	return nil
}

func rmdirAt(at int, dir string) error {
	pause := time.Millisecond
	for end := time.Now().Add(500 * time.Millisecond); ; pause = min(2*pause, 20*time.Millisecond) {
		err := unix.Unlinkat(at, dir, unix.AT_REMOVEDIR)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case err == unix.EINTR:
			continue
		case err != unix.EBUSY || time.Now().After(end):
			return err
		}
		time.Sleep(pause)
	}
}
