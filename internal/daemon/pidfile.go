package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// instance is the lock that makes this hezid the only one of its roots. It is
// a lock on a file of the exec root, so that it ends with the process however
// the process ends.
type instance struct {
	lock    *os.File
	pidFile string
}

// claim makes this process the engine of the exec root. Another one is named.
func claim(execRoot, pidFile string) (*instance, error) {
	path := filepath.Join(execRoot, "hezid.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the exec root cannot be used: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, fmt.Errorf("another hezid%s serves exec root %s: stop it first, or give this one other roots with --data-root and --exec-root", holder(f), execRoot)
	}
	if other := owner(pidFile); other != 0 {
		return nil, errors.Join(fmt.Errorf("the pid file %s is of another hezid (process %d): stop it first, or give this one another file with --pidfile", pidFile, other), f.Close())
	}
	pid := []byte(strconv.Itoa(os.Getpid()))
	if err := writeLock(f, pid); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close())
	}
	if err := os.MkdirAll(filepath.Dir(pidFile), 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("pid file: %w", err), f.Close())
	}
	if err := os.WriteFile(pidFile, append(pid, '\n'), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("pid file: %w", err), f.Close())
	}
	return &instance{lock: f, pidFile: pidFile}, nil
}

// owner is the process that the pid file names, if it lives and is another
// hezid: a file that a killed one left is no obstacle, nor is a process that
// has got its number since.
func owner(pidFile string) int {
	b, _ := os.ReadFile(pidFile) // no file: nobody's
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid == os.Getpid() {
		return 0
	}
	program := func(proc string) string {
		exe, _ := os.Readlink("/proc/" + proc + "/exe") // empty: gone
		return filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	if program(strconv.Itoa(pid)) != program("self") {
		return 0
	}
	return pid
}

func writeLock(f *os.File, pid []byte) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(pid, 0)
	return err
}

// holder says who wrote the lock's file.
func holder(f *os.File) string {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0) // an empty file says nothing
	pid := strings.TrimSpace(string(buf[:n]))
	if pid == "" {
		return ""
	}
	return " (process " + pid + ")"
}

// release gives the roots free. The lock's file stays: removing it would let
// two processes lock two files of one name.
func (i *instance) release() error {
	err := os.Remove(i.pidFile)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, i.lock.Close())
}
