package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ExecPrefix begins the names of execs' own groups, StandbyPrefix of those that
// wait for an exec.
const (
	ExecPrefix    = "exec-"
	StandbyPrefix = "standby-"
)

// ExecName is the name of an exec's group inside its container's.
func ExecName(execID string) string { return ExecPrefix + execID }

// InnerHierarchy is the key of the one hierarchy in which an exec has a group
// of its own: on v1 the freezer's, which limits nothing and lets what is in it
// be killed at a standstill; elsewhere a process is in the container's group.
// On v2 the group inside has no controllers, so that the container's limits
// stay the only ones, and the rule against processes beside limited children
// does not apply. "": this host has none.
func InnerHierarchy(paths map[string]string) (key string, ok bool) {
	if len(paths) == 1 && paths[""] != "" {
		return "", true
	}
	return "freezer", paths["freezer"] != ""
}

// Inner is the directory of a group inside a container's; "" where there is none.
func Inner(paths map[string]string, name string) string {
	key, ok := InnerHierarchy(paths)
	if !ok {
		return ""
	}
	return filepath.Join(paths[key], name)
}

// Inners are the directories of all such groups inside a container's.
func Inners(paths map[string]string) []string {
	key, ok := InnerHierarchy(paths)
	if !ok {
		return nil
	}
	return slices.DeleteFunc(children(paths[key]), func(dir string) bool {
		name := filepath.Base(dir)
		return !strings.HasPrefix(name, ExecPrefix) && !strings.HasPrefix(name, StandbyPrefix)
	})
}

// MakeInner makes a group inside a container's. One that exists is taken.
func MakeInner(paths map[string]string, name string) (dir string, err error) {
	if dir = Inner(paths, name); dir == "" {
		return "", nil
	}
	if err := unix.Mkdir(dir, 0o755); err != nil && err != unix.EEXIST {
		return "", fmt.Errorf("cannot make the cgroup %s: %w%s", dir, err, hint(err))
	}
	return dir, nil
}

// RemoveInner removes a group that is empty, and says whether it is gone. A
// process that has just ended leaves it a moment later.
func RemoveInner(dir string) bool {
	for range 20 {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return true
		}
		if len(Processes(dir)) > 0 {
			return false
		}
		if removeBelow(dir) != nil { // of a container that may make groups itself
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// Processes are the ids, on the host, of what is in a group and in those inside
// it. What goes while it is read is left out.
func Processes(dir string) (pids []int) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // fails of threaded groups, whose processes are in the one above
	if err == nil {
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
	}
	for _, sub := range children(dir) {
		pids = append(pids, Processes(sub)...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// SignalAll sends a signal to everything in a group. SIGKILL reaches what is
// forked meanwhile too: by cgroup.kill (Linux 5.14), else at a standstill. It
// says how many processes were there.
func SignalAll(dir string, sig unix.Signal) (n int, err error) {
	if sig != unix.SIGKILL {
		return signalEach(dir, sig)
	}
	if n = len(Processes(dir)); n == 0 {
		return 0, nil
	}
	if exists(dir, "cgroup.kill") {
		return n, write(dir, "cgroup.kill", "1")
	}
	thaw := freeze(dir)
	defer thaw()
	return signalEach(dir, sig)
}

// signalEach sends by pidfd to what is still in the group, so never to another
// process with a number that has become free.
func signalEach(dir string, sig unix.Signal) (n int, err error) {
	for some := range slices.Chunk(Processes(dir), 64) { // of which descriptors are held
		fds := map[int]int{}
		for _, pid := range some {
			if fd, e := unix.PidfdOpen(pid, 0); e == nil { // else it has ended
				fds[pid] = fd
			}
		}
		still := Processes(dir)
		for pid, fd := range fds {
			if _, ok := slices.BinarySearch(still, pid); ok {
				if e := unix.PidfdSendSignal(fd, sig, nil, 0); e == nil {
					n++
				} else if e != unix.ESRCH {
					err = errors.Join(err, fmt.Errorf("send signal %d to process %d: %w", sig, pid, e))
				}
			}
			unix.Close(fd)
		}
	}
	return n, err
}

// freeze stops what is in a group, so that it cannot fork, and returns what lets
// it go on. Without a freezer nothing is stopped.
func freeze(dir string) (thaw func()) {
	file, state, on, off, want := filepath.Join(dir, "freezer.state"), filepath.Join(dir, "freezer.state"), "FROZEN", "THAWED", "FROZEN"
	if !exists(dir, "freezer.state") {
		file, state, on, off, want = filepath.Join(dir, "cgroup.freeze"), filepath.Join(dir, "cgroup.events"), "1", "0", "frozen 1"
	}
	if !exists(filepath.Dir(file), filepath.Base(file)) || os.WriteFile(file, []byte(on), 0) != nil {
		return func() {}
	}
	for range 200 {
		if b, err := os.ReadFile(state); err != nil || bytes.Contains(b, []byte(want)) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return func() { _ = os.WriteFile(file, []byte(off), 0) } // it may be gone
}
