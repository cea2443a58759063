package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tracker is a directory that holds all the group's processes.
func (g *Group) tracker() string {
	for _, k := range []string{"", "freezer", "pids", "memory", "name=systemd"} {
		if dir := g.paths[k]; dir != "" {
			return dir
		}
	}
	return g.dirs()[0]
}

// Procs gives the processes of the group and of those made inside it, as this
// process numbers them. A group that is gone has none.
func (g *Group) Procs() ([]int, error) {
	return procs(g.tracker(), nil)
}

func procs(dir string, to []int) ([]int, error) {
	text, err := read(dir, "cgroup.procs")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return to, nil
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a threaded group has them in its parent's list
		return to, err
	}
	for f := range strings.FieldsSeq(text) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 { // 0: of a pid namespace not ours
			to = append(to, pid)
		}
	}
	for _, sub := range children(dir) {
		if to, err = procs(sub, to); err != nil {
			return to, err
		}
	}
	return to, nil
}

// Kill kills every process of the group: by cgroup.kill (v2, Linux 5.14), else
// by signals while it is frozen, so that no fork escapes, until none is left
// or five seconds have gone. Processes may still be zombies afterwards.
func (g *Group) Kill() error {
	if dir := g.v2(); dir != "" {
		err := write(dir, "cgroup.kill", "1")
		if err == nil || errors.Is(err, unix.ENODEV) || !exists(dir, "cgroup.procs") {
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	pause := time.Millisecond
	for end := time.Now().Add(5 * time.Second); ; pause = min(2*pause, 50*time.Millisecond) {
		left, err := g.signal()
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d processes of the cgroup %s did not die within 5 s: they wait for a device or file system that does not answer", left, g.tracker())
		}
		time.Sleep(pause)
	}
}

// signal sends one round of kills, and says how many processes it saw that
// are not zombies.
func (g *Group) signal() (int, error) {
	frozen := g.setFrozen("FROZEN", "1") == nil // not waited for: only forks must end soon
	list, err := g.Procs()
	alive := 0
	for _, pid := range list {
		switch kill := unix.Kill(pid, unix.SIGKILL); {
		case kill == nil:
			if !zombie(pid) {
				alive++
			}
		case kill != unix.ESRCH && err == nil:
			err = fmt.Errorf("cannot kill process %d: %w", pid, kill)
		}
	}
	if frozen {
		if thaw := g.setFrozen("THAWED", "0"); thaw != nil && err == nil && exists(g.tracker(), "cgroup.procs") {
			err = thaw
		}
	}
	return alive, err
}

// zombie says whether a process has ended: not only its first thread, which is
// a zombie too while others are left.
func zombie(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name before may hold anything
	return len(f) > 17 && (f[0] == "Z" || f[0] == "X") && number(f[17]) <= 1
}

// Freeze returns once all processes stand still.
func (g *Group) Freeze() error {
	if err := g.setFrozen("FROZEN", "1"); err != nil {
		return err
	}
	if err := g.await("FROZEN", "frozen 1"); err != nil {
		return errors.Join(err, g.Thaw())
	}
	return nil
}

// Thaw lets them run again.
func (g *Group) Thaw() error {
	if err := g.setFrozen("THAWED", "0"); err != nil {
		return err
	}
	return g.await("THAWED", "frozen 0")
}

// setFrozen changes the freezer's state, without waiting for it.
func (g *Group) setFrozen(v1, v2 string) error {
	if dir := g.v2(); dir != "" {
		return write(dir, "cgroup.freeze", v2)
	}
	if dir := g.paths["freezer"]; dir != "" {
		return write(dir, "freezer.state", v1)
	}
	return fmt.Errorf("this host has no freezer cgroup, so containers cannot be paused: %w", errors.ErrUnsupported)
}

// await polls the freezer's state. A v1 freezer can stick in FREEZING while
// processes are in uninterruptible sleep; writing the state again helps it on.
func (g *Group) await(v1, v2 string) error {
	pause := 100 * time.Microsecond
	for end := time.Now().Add(5 * time.Second); ; pause = min(2*pause, 20*time.Millisecond) {
		dir, file, want := g.v2(), "cgroup.events", v2
		if dir == "" {
			dir, file, want = g.paths["freezer"], "freezer.state", v1
		}
		text, err := read(dir, file)
		if err != nil {
			return err
		}
		if slices.Contains(strings.Split(text, "\n"), want) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the processes of the cgroup %s did not become %s within 5 s: one waits for a device or file system that does not answer", dir, want)
		}
		time.Sleep(pause)
		if file == "freezer.state" {
			if err := write(dir, file, v1); err != nil {
				return err
			}
		}
	}
}

// OOMKills counts the processes that the kernel killed for lack of memory. It
// is gone with the group: os.ErrNotExist, or unix.ENODEV while it goes.
func (g *Group) OOMKills() (uint64, error) {
	dir, name := g.v2(), "memory.events"
	if dir == "" {
		dir, name = g.paths["memory"], "memory.oom_control"
	}
	if dir == "" || exists(dir, "cgroup.procs") && !exists(dir, name) {
		return 0, nil // without a memory controller nothing is killed for a limit
	}
	text, err := read(dir, name)
	if err != nil {
		return 0, err
	}
	return field(text, "oom_kill"), nil
}

// field finds "name N" among lines.
func field(text, name string) uint64 {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == name {
			return number(v)
		}
	}
	return 0
}

func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
