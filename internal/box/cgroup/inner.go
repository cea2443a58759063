package cgroup

import (
	"errors"
	"fmt"
	"io"
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
func Inners(paths map[string]string) (dirs []string) {
	key, ok := InnerHierarchy(paths)
	if !ok {
		return nil
	}
	at, err := openGroup(paths[key])
	if err != nil {
		return nil // gone: it has none
	}
	defer unix.Close(at)
	for _, name := range childrenAt(at) {
		if strings.HasPrefix(name, ExecPrefix) || strings.HasPrefix(name, StandbyPrefix) {
			dirs = append(dirs, filepath.Join(paths[key], name))
		}
	}
	return dirs
}

// openGroup opens the directory of a container's cgroup. Whoever may mount where
// the host sees it could put something else in a path's way: nothing that is no
// cgroup is opened, nor one that is mounted there, and no link followed. What is below it is opened from there.
func openGroup(dir string) (int, error) {
	at, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, err
	}
	var fs unix.Statfs_t
	var st unix.Statx_t
	if unix.Fstatfs(at, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC && fs.Type != unix.CGROUP_SUPER_MAGIC ||
		unix.Statx(at, "", unix.AT_EMPTY_PATH, 0, &st) != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		unix.Close(at)
		return -1, unix.EXDEV
	}
	return at, nil
}

// openInner opens the directory of a group inside a container's.
func openInner(dir string) (int, error) {
	above, err := openGroup(filepath.Dir(dir))
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	return openBelow(above, filepath.Base(dir), unix.O_RDONLY|unix.O_DIRECTORY)
}

// OpenJoin opens, for CLONE_INTO_CGROUP, the directory that a process enters which
// joins a container on v2: the group inside by that name, or the container's own
// for "".
func OpenJoin(paths map[string]string, inner string) (int, error) {
	return openJoin(paths[""], inner)
}

func openJoin(dir, inner string) (at int, err error) {
	if inner == "" {
		at, err = openGroup(dir)
	} else {
		dir = filepath.Join(dir, inner)
		at, err = openInner(dir)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot open the container's cgroup %s: %w", dir, err)
	}
	return at, nil
}

// Join moves a process into a container's group, in the one hierarchy that has
// groups inside into that by the name, unless it is "". Files are opened first and
// written in a row, as Add has it.
func Join(paths map[string]string, inner string, pid int) error {
	key, _ := InnerHierarchy(paths)
	files := map[string]int{}
	defer func() {
		for _, fd := range files {
			unix.Close(fd)
		}
	}()
	for k, dir := range paths {
		name := ""
		if k == key {
			name = inner
		} else if _, ok := files[dir]; ok || dir == paths[key] { // of controllers mounted together
			continue
		}
		at, err := openJoin(dir, name)
		if err != nil {
			return err
		}
		files[dir], err = openBelow(at, "cgroup.procs", unix.O_WRONLY)
		unix.Close(at)
		if err != nil {
			delete(files, dir)
			return fmt.Errorf("cannot open the list of processes of the container's cgroup %s: %w", filepath.Join(dir, name), err)
		}
	}
	for dir, fd := range files {
		if err := writeFD(fd, strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("cannot enter the container's cgroup %s: %w%s", dir, err, hint(err))
		}
	}
	return nil
}

// Delegate gives a container's group on v2 to a user: to make groups in it, and to
// move processes between them (cgroups(7), "Delegating a cgroup").
func Delegate(dir string, uid, gid int) error {
	at, err := openGroup(dir)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	for _, name := range []string{".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "memory.oom.group", "memory.reclaim"} {
		if err := unix.Fchownat(at, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil && err != unix.ENOENT {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// openBelow opens a group, or a file of one, inside one that is open.
func openBelow(at int, name string, flags uint64) (int, error) {
	return openat(at, name, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

func openat(at int, name string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(at, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// MakeInner makes a group inside a container's. One that exists is taken.
func MakeInner(paths map[string]string, name string) (dir string, err error) {
	if dir = Inner(paths, name); dir == "" {
		return "", nil
	}
	at, err := openGroup(filepath.Dir(dir))
	if err == nil {
		err = unix.Mkdirat(at, name, 0o755)
		unix.Close(at)
	}
	if err != nil && err != unix.EEXIST {
		return "", fmt.Errorf("cannot make the cgroup %s: %w%s", dir, err, hint(err))
	}
	return dir, nil
}

// RenameInner gives a group inside a container's another name (cgroup v1).
func RenameInner(dir, name string) error {
	at, err := openGroup(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unix.Renameat(at, filepath.Base(dir), at, name)
}

// RemoveInner removes a group that is empty, and says whether it is gone. A
// process that has just ended leaves it a moment later.
func RemoveInner(dir string) bool {
	above, err := openGroup(filepath.Dir(dir))
	if err != nil {
		return err == unix.ENOENT
	}
	defer unix.Close(above)
	name := filepath.Base(dir)
	for range 20 {
		err := unix.Unlinkat(above, name, unix.AT_REMOVEDIR)
		if err == nil || err == unix.ENOENT {
			return true
		}
		at, err := openBelow(above, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err == unix.ENOENT
		}
		if len(processesAt(at)) > 0 {
			unix.Close(at)
			return false
		}
		if removeAt(at, dir) != nil { // of a container that may make groups itself
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// Processes are the ids, on the host, of what is in a group inside a container's
// and in those inside it. What goes while it is read is left out.
func Processes(dir string) []int {
	at, err := openInner(dir)
	if err != nil {
		return nil
	}
	defer unix.Close(at)
	return processesAt(at)
}

// processesAt reads an open group and what is below it, and leaves it open. A
// container may have made groups so deep that no path leads there, and that a
// descriptor for each would be too many: one goes down, and up by "..".
func processesAt(top int) (pids []int) {
	at, err := unix.Openat(top, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { unix.Close(at) }()
	levels := [][]string{nil}
	visit := func() {
		text, _ := readAt(at, "cgroup.procs") // fails of threaded groups, whose processes are in the one above
		for f := range strings.FieldsSeq(text) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
		levels[len(levels)-1] = childrenAt(at)
	}
	visit()
	for len(levels) > 0 {
		l := &levels[len(levels)-1]
		next := -1
		if len(*l) == 0 {
			levels = levels[:len(levels)-1]
			if len(levels) == 0 {
				break
			}
			if next, err = unix.Openat(at, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				break // removed meanwhile
			}
		} else {
			name := (*l)[0]
			*l = (*l)[1:]
			if next, err = openBelow(at, name, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
				continue
			}
			levels = append(levels, nil)
		}
		unix.Close(at)
		if at = next; levels[len(levels)-1] == nil {
			visit()
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func readAt(at int, name string) (string, error) {
	fd, err := openBelow(at, name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func writeAt(at int, name, value string) error {
	fd, err := openBelow(at, name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return writeFD(fd, value)
}

// SignalAll sends a signal to everything in a group inside a container's. SIGKILL
// reaches what is forked meanwhile too: by cgroup.kill (Linux 5.14), else at a
// standstill. It says how many processes were there.
func SignalAll(dir string, sig unix.Signal) (n int, err error) {
	at, err := openInner(dir)
	if err == unix.ENOENT {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot open the cgroup %s: %w", dir, err)
	}
	defer unix.Close(at)
	if sig != unix.SIGKILL {
		return signalEach(at, sig)
	}
	if n = len(processesAt(at)); n == 0 {
		return 0, nil
	}
	if err := writeAt(at, "cgroup.kill", "1"); err != unix.ENOENT {
		if err != nil {
			return n, fmt.Errorf("cannot kill what is in the cgroup %s: %w", dir, err)
		}
		return n, nil
	}
	thaw := freeze(at)
	defer thaw()
	return signalEach(at, sig)
}

// signalEach sends by pidfd to what is still in the group, so never to another
// process with a number that has become free.
func signalEach(at int, sig unix.Signal) (n int, err error) {
	for some := range slices.Chunk(processesAt(at), 64) { // of which descriptors are held
		fds := map[int]int{}
		for _, pid := range some {
			if fd, e := unix.PidfdOpen(pid, 0); e == nil { // else it has ended
				fds[pid] = fd
			}
		}
		still := processesAt(at)
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
func freeze(at int) (thaw func()) {
	file, state, off, want := "freezer.state", "freezer.state", "THAWED", "FROZEN"
	err := writeAt(at, file, "FROZEN")
	if err == unix.ENOENT {
		file, state, off, want = "cgroup.freeze", "cgroup.events", "0", "frozen 1"
		err = writeAt(at, file, "1")
	}
	if err != nil {
		return func() {}
	}
	for range 200 {
		if text, err := readAt(at, state); err != nil || strings.Contains(text, want) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return func() { _ = writeAt(at, file, off) } // it may be gone
}
