// Package proc reads what procfs tells of a container's first process.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// WhyStuck says what a process waits for that SIGKILL does not end.
func WhyStuck(pid int) string {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return "gone"
	}
	state := "?"
	if _, rest, ok := bytes.Cut(stat, []byte(") ")); ok && len(rest) > 0 {
		state = string(rest[:1])
	}
	where, err := os.ReadFile(filepath.Join(proc, "wchan"))
	if err != nil || len(where) == 0 || string(where) == "0" {
		return "in state " + state
	}
	return fmt.Sprintf("in state %s in the kernel's %s: a device or a network file system may not answer", state, where)
}

// Undeliverable says whether no thread of the first process handles, blocks or
// waits for the signal: the kernel then drops it (pid_namespaces(7)). What procfs
// does not tell counts as deliverable.
func Undeliverable(pid int, sig syscall.Signal) bool {
	if sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return false
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return false
	}
	for _, t := range tasks {
		b, err := os.ReadFile(filepath.Join(t, "status"))
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(b)) {
			key, v, _ := strings.Cut(line, ":")
			if key != "SigCgt" && key != "SigBlk" {
				continue
			}
			mask, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			if err != nil || mask&(1<<(uint(sig)-1)) != 0 {
				return false
			}
		}
		if waitsForSignal(t) {
			return false
		}
	}
	return true
}

// waitsForSignal says whether a thread is in sigtimedwait(2), as tini's is: what
// it waits for is delivered, and yet missing in SigBlk meanwhile.
func waitsForSignal(task string) bool {
	b, err := os.ReadFile(filepath.Join(task, "syscall"))
	if err != nil {
		return true
	}
	nr, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	switch nr {
	case strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT), "177", "421": // the latter of 32-bit programs
		return true
	}
	return false
}

// Exited says whether a process is gone or a zombie. One of whose threads some are
// left is neither: only its first thread is a zombie (proc_pid_stat(5), fields 3 and 20).
func Exited(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name before may hold anything
	return len(f) > 17 && (f[0][0] == 'Z' || f[0][0] == 'X') && (string(f[17]) == "0" || string(f[17]) == "1")
}
