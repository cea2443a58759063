package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// EnsureOptions of EnsureRunning.
type EnsureOptions struct {
	ExecRoot string // absolute; the socket is in ExecRoot/keeper
	Identity string // names the keeper's cgroup, hezi-IDENTITY
	Binary   string // hezi-keeper's path
	Version  string // this build's version
	Env      []string
}

const (
	maxKeeperLog   = 1 << 20
	maxKeeperStart = 20 * time.Second
)

// EnsureRunning finds the running keeper or starts one, detached from this
// process: in its own session, and in its own cgroup so that stopping
// hezid's service leaves it alone. It returns once the keeper serves.
func EnsureRunning(ctx context.Context, o EnsureOptions) (*Client, error) {
	dir := filepath.Join(o.ExecRoot, "keeper")
	c := NewClient(o.ExecRoot)
	c.revive = &reviver{o: o, dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the keeper's folder: %w", err)
	}
	// The holder listens for a keeper that cannot start, too: without a limit
	// its answer would be waited for in vain.
	limited, cancel := context.WithTimeout(ctx, maxKeeperStart)
	defer cancel()
	if !running(c.socket) {
		if err := c.revive.start(); err != nil {
			return nil, err
		}
	}
	for {
		_, err := c.Info(limited)
		switch {
		case err == nil:
			return c, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case limited.Err() != nil:
			return nil, fmt.Errorf("it does not serve within %v (%w); %s says why", maxKeeperStart, err, filepath.Join(dir, "keeper.log"))
		}
		select {
		case <-limited.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// reviver starts a keeper where none is.
type reviver struct {
	o       EnsureOptions
	dir     string
	mu      sync.Mutex // guards what follows, and is held while one starts
	stopped bool       // for good
}

func (r *reviver) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return errors.New("it was stopped")
	}
	if running(SocketPath(r.o.ExecRoot)) { // another request has started it
		return nil
	}
	return spawn(r.o, r.dir)
}

// stop says that no keeper is to be started any more, or again that one may be.
func (r *reviver) stop(stopped bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = stopped
}

// nobodyListens says whether a connection failed because keeper and holder are gone.
func nobodyListens(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

// Running says whether a keeper of execRoot, or its holder, is there.
func Running(execRoot string) bool { return running(SocketPath(execRoot)) }

// running says whether someone (keeper or holder) holds the listening socket:
// the kernel refuses a connection otherwise.
func running(socket string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	return err == nil || errors.Is(err, unix.EAGAIN)
}

func spawn(o EnsureOptions, dir string) error {
	logPath := filepath.Join(dir, "keeper.log")
	if st, err := os.Stat(logPath); err == nil && st.Size() > maxKeeperLog {
		if err := os.Rename(logPath, logPath+".1"); err != nil {
			return fmt.Errorf("rotate the keeper's own log: %w", err)
		}
	}
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the keeper's own log: %w", err)
	}
	defer out.Close()
	// hold forks once more (`hold --detach`), so that it is no child of hezid.
	cmd := exec.Command(o.Binary, "hold", "--detach", "--root", o.ExecRoot, "--identity", o.Identity)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("start %s: %w; see %s", o.Binary, err, logPath)
	}
	return nil
}

// cgroupOf names an engine's cgroup, as package box/cgroup does.
func cgroupOf(identity string) string {
	if identity == "" {
		return "hezi"
	}
	return "hezi-" + identity
}

// LeaveCgroup moves this process to /hezi-IDENTITY/engine in every hierarchy it can.
// It is called by the holder before it starts anything.
func LeaveCgroup(identity string) error {
	leaf := filepath.Join(cgroupOf(identity), "engine")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	moved := false
	for line := range strings.Lines(string(mounts)) {
		pre, post, ok := strings.Cut(line, " - ")
		f, kind := strings.Fields(pre), strings.Fields(post)
		if !ok || len(f) < 5 || len(kind) == 0 || (kind[0] != "cgroup2" && kind[0] != "cgroup") {
			continue
		}
		dir := filepath.Join(f[4], leaf)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		if kind[0] == "cgroup" {
			copyCpuset(f[4], dir)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			errs = append(errs, err)
			continue
		}
		moved = true
	}
	if moved {
		return nil
	}
	return errors.Join(errs...)
}

// RemoveCgroups removes the cgroups of an engine whose keeper has ended. It
// waits for a moment for the keeper's own processes; what else is in one stays.
func RemoveCgroups(ctx context.Context, identity string) error {
	var left error
	for range 100 {
		if left = removeCgroups(identity); left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return left
		case <-time.After(10 * time.Millisecond):
		}
	}
	return left
}

// CgroupRoots are an engine's own cgroups by hierarchy: its folder's name on v1,
// "" on v2.
func CgroupRoots(identity string) map[string]string {
	name := cgroupOf(identity)
	roots := map[string]string{}
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + name) // its pattern is sound
	for _, root := range v1 {
		roots[filepath.Base(filepath.Dir(root))] = root
	}
	if root := filepath.Join("/sys/fs/cgroup", name); len(v1) == 0 {
		roots[""] = root
	}
	return roots
}

func removeCgroups(identity string) error {
	var errs []error
	for _, root := range CgroupRoots(identity) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // one that has just gone is what is wanted
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := unix.Rmdir(dirs[i]); err != nil && err != unix.ENOENT {
				errs = append(errs, fmt.Errorf("remove the cgroup %s: %w", dirs[i], err))
			}
		}
	}
	return errors.Join(errs...)
}

// copyCpuset fills the two files without which a v1 cpuset takes no process.
func copyCpuset(root, dir string) {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		v, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return
		}
		for _, d := range []string{filepath.Dir(dir), dir} {
			if err := os.WriteFile(filepath.Join(d, name), v, 0); err != nil {
				return
			}
		}
	}
}
