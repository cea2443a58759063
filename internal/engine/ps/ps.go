// Package ps shows processes as ps does: by the host's ps, or without it from
// procfs.
package ps

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// List shows processes by their ids on the host. Errors: InvalidArgument for
// arguments without a column of process ids, FailedPrecondition for arguments
// other than -ef on a host without ps.
func List(ctx context.Context, args []string, pids []int) (container.TopResponse, error) {
	resp, err := run(ctx, args, pids)
	if errors.Is(err, exec.ErrNotFound) {
		if !slices.Equal(args, []string{"-ef"}) {
			return container.TopResponse{}, errdefs.ErrFailedPrecondition.WithMessage("the host has no program ps, which options of top need: install procps, or leave the options out")
		}
		return fromProc("/proc", pids)
	}
	return resp, err
}

// Check refuses another column that calls itself PID: what it shows
// would be taken for process ids.
func Check(args []string) error {
	for _, m := range regexp.MustCompile(`\s+(\S*)=\s*(PID\S*)`).FindAllStringSubmatch(" "+strings.Join(args, " "), -1) {
		if m[1] != "pid" {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("specifying \"%s=%s\" is not allowed", m[1], m[2]))
		}
	}
	return nil
}

// run asks ps for the processes alone, and where the arguments do not allow
// that, for all, and chooses.
func run(ctx context.Context, args []string, pids []int) (container.TopResponse, error) {
	ps, err := exec.LookPath("ps")
	if err != nil {
		return container.TopResponse{}, err
	}
	only := make([]string, len(pids))
	for i, p := range pids {
		only[i] = strconv.Itoa(p)
	}
	out, err := exec.CommandContext(ctx, ps, append(slices.Clone(args), "-q"+strings.Join(only, ","))...).Output()
	if err != nil {
		out, err = exec.CommandContext(ctx, ps, args...).Output()
	}
	if err != nil {
		why := err.Error()
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			if line, _, _ := bytes.Cut(failed.Stderr, []byte("\n")); len(line) > 0 {
				why = string(line)
			}
		}
		return container.TopResponse{}, errdefs.ErrInvalidArgument.WithMessage("ps: " + why)
	}
	return choose(string(out), pids)
}

// choose keeps the lines of ps that are about the processes, and those of
// their threads, whose id is "-".
func choose(out string, pids []int) (container.TopResponse, error) {
	fields := func(s string) []string { // ASCII's spaces only: others are part of names
		return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("\t\n\f\r ", r) })
	}
	head, rest, _ := strings.Cut(out, "\n")
	resp := container.TopResponse{Titles: fields(head), Processes: [][]string{}}
	column := slices.Index(resp.Titles, "PID")
	if column < 0 {
		return container.TopResponse{}, errdefs.ErrInvalidArgument.WithMessage("Couldn't find PID field in ps output: the arguments of ps must ask for a column PID, as -o pid,cmd does")
	}
	ours := false
	for line := range strings.Lines(rest) {
		f := fields(line)
		if len(f) <= column {
			continue
		}
		if f[column] != "-" {
			pid, err := strconv.Atoi(f[column])
			if err != nil {
				return container.TopResponse{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Unexpected pid '%s': %v", f[column], err))
			}
			ours = slices.Contains(pids, pid)
		}
		if !ours {
			continue
		}
		if last := len(resp.Titles) - 1; len(f) > last { // the command has spaces
			f = append(f[:last:last], strings.Join(f[last:], " "))
		}
		resp.Processes = append(resp.Processes, f)
	}
	return resp, nil
}

// fromProc is ps -ef for hosts without ps.
func fromProc(proc string, pids []int) (container.TopResponse, error) {
	resp := container.TopResponse{Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, Processes: [][]string{}}
	boot, err := bootTime(proc)
	if err != nil {
		return container.TopResponse{}, err
	}
	for _, pid := range pids {
		p, err := procLine(filepath.Join(proc, strconv.Itoa(pid)), boot, time.Now())
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return container.TopResponse{}, fmt.Errorf("process %d: %w", pid, err)
		}
		resp.Processes = append(resp.Processes, p)
	}
	return resp, nil
}

func bootTime(proc string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Unix(n, 0), err
		}
	}
	return time.Time{}, fmt.Errorf("%s/stat does not say when the machine started", proc)
}

// ticks are the clock ticks a second of /proc/PID/stat: 100 for every
// architecture that Go runs on.
const ticks = 100

// procLine is one process by its folder of proc(5).
func procLine(dir string, boot, now time.Time) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, err
	}
	pid, rest, _ := strings.Cut(string(b), " (")
	end := strings.LastIndex(rest, ") ") // a name may have brackets
	if end < 0 {
		return nil, fmt.Errorf("%s/stat cannot be read", dir)
	}
	name, f := rest[:end], strings.Fields(rest[end+2:]) // f[0] is field 3 of proc_pid_stat(5)
	if len(f) < 20 {
		return nil, fmt.Errorf("%s/stat is too short", dir)
	}
	var n [20]int64
	for _, i := range []int{4, 11, 12, 19} { // terminal, user and system time, start
		if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return nil, fmt.Errorf("%s/stat: %w", dir, err)
		}
	}
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	used := time.Duration(n[11]+n[12]) * time.Second / ticks
	started := boot.Add(time.Duration(n[19]) * time.Second / ticks)
	share := int64(0)
	if alive := now.Sub(started); alive > 0 {
		share = int64(used * 100 / alive)
	}
	command := strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
	return []string{userName(info), pid, f[1], strconv.FormatInt(share, 10), startedAt(started, now), terminal(n[4]), clock(used), cmp.Or(command, "["+name+"]")}, nil
}

func userName(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "?"
	}
	id := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// startedAt is short: the hour of today, the day of this year, else the year.
func startedAt(t, now time.Time) string {
	switch {
	case now.Sub(t) < 24*time.Hour:
		return t.Format("15:04")
	case t.Year() == now.Year():
		return t.Format("Jan02")
	}
	return t.Format("2006")
}

// terminal names a terminal's device number, as it is encoded in proc_pid_stat(5).
func terminal(device int64) string {
	major, minor := device>>8&0xfff, device&0xff|device>>12&0xfff00
	switch {
	case device == 0:
		return "?"
	case major >= 136 && major <= 143: // Unix98 terminals
		return fmt.Sprintf("pts/%d", (major-136)<<20|minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	}
	return fmt.Sprintf("%d:%d", major, minor)
}

func clock(d time.Duration) string {
	s := int64(d / time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
