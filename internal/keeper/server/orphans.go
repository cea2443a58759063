package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box/cgroup"
	"hezi/internal/keeper"
	"hezi/internal/logs"
)

// endOrphans kills what the keeper before had started and not yet deposited:
// whoever asked for it was told that it failed. Such a process is the holder's
// child now; one of a container in the host's pid namespace may be the
// container's own, and stays, as do those of the containers that are spared.
func endOrphans(s *Server, ps []*process, spared map[string]bool) {
	held, others := map[string]bool{}, map[string]bool{}
	known := map[int]bool{os.Getpid(): true}
	for _, p := range ps {
		known[p.rec.PID] = true
		held[p.rec.ContainerID] = true
		others[p.rec.ContainerID] = others[p.rec.ContainerID] || p.rec.Runtime != ""
	}
	for _, pid := range childrenOf(s.link.pid()) {
		if known[pid] {
			continue
		}
		id := containerOf(pid)
		// Another runtime may have processes of its own there, and its courier ends
		// what it cannot hand over.
		if id == "" || spared[id] || others[id] || held[id] && !nested(pid) {
			continue
		}
		s.logger.Warn("a process whose start was cut off is ended", "container", id, "pid", pid)
		if !held[id] {
			dirs := groupOf(pid, id)
			if err := errors.Join(dirs.Kill(), dirs.Remove()); err != nil {
				s.logger.Error("end what a start that was cut off has left", "container", id, "error", err)
			}
			if containerOf(pid) != id {
				continue
			} // it is in a scope, or below a parent that the user named
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			s.logger.Error("end an exec whose start was cut off", "container", id, "error", err)
		}
	}
}

func childrenOf(pid int) []int {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue // the thread has ended
		}
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// groupOf is the cgroup of a container that a process is in, also where it is
// below a parent that the user named.
func groupOf(pid int, id string) cgroup.Dirs {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	dirs := cgroup.Dirs{}
	for line := range strings.Lines(string(b)) { // cgroups(7)
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, path, _ := strings.Cut(rest, ":")
		name = strings.TrimPrefix(name, "name=")
		if above, _, ok := strings.Cut(path+"/", "/"+id+"/"); ok {
			if dir := filepath.Join("/sys/fs/cgroup", name, above, id); isDir(dir) {
				dirs[name] = dir
			}
		}
	}
	return dirs
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// containerOf is the id in the name of a process's cgroup; "" without one.
func containerOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		for _, name := range strings.Split(strings.TrimSpace(line), "/") {
			if id := cgroup.IDOf(name); id != "" {
				return id
			}
		}
	}
	return ""
}

// nested says whether a process is in a pid namespace below ours.
func nested(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(rest)) > 1
		}
	}
	return false
}

// sweep ends what runs in cgroups of containers that this keeper does not
// hold, and says which those were.
func sweep(s *Server, req *keeper.SweepRequest) ([]string, error) {
	found := map[string]cgroup.Dirs{}
	for name, root := range keeper.CgroupRoots(s.o.Identity) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || !d.IsDir(): // one that has just gone needs no sweep
			case cgroup.IDOf(d.Name()) == d.Name():
				if found[d.Name()] == nil {
					found[d.Name()] = cgroup.Dirs{}
				}
				found[d.Name()][name] = path
				return fs.SkipDir
			}
			return nil
		})
	}
	var swept []string
	var errs []error
	for id, dirs := range found {
		if slices.Contains(req.Keep, id) || s.holds(id) {
			continue
		}
		if dirs.Populated() {
			swept = append(swept, id)
			errs = append(errs, dirs.Kill())
		}
		errs = append(errs, dirs.Remove())
	}
	for _, id := range allOthers(s) {
		if slices.Contains(req.Keep, id) || s.holds(id) {
			continue
		}
		errs = append(errs, s.o.Others.Delete(id))
	}
	return swept, errors.Join(errs...)
}

func (s *Server) holds(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id] != nil || s.starting[id]
}

// reserve lets one take a container up: two that read its output would each get a
// part. It is false once the container is held, for which it waits.
func reserve(s *Server, id string) bool {
	for {
		s.mu.Lock()
		held, busy := s.containers[id] != nil, s.starting[id]
		if !held && !busy {
			s.starting[id] = true
		}
		s.mu.Unlock()
		if held || !busy {
			return !held
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// find takes a container up that runs and that keeper and holder have lost,
// both killed. Its output is captured from here on, where its pipes still are
// open; a terminal and standard input ended with the holder.
func find(s *Server, req *keeper.AdoptRequest) error {
	s.starts.RLock()
	defer s.starts.RUnlock()
	id := req.ContainerID
	if !reserve(s, id) {
		return nil
	}
	defer func() {
		s.mu.Lock()
		delete(s.starting, id)
		s.mu.Unlock()
	}()
	gone := keeper.Classed(errdefs.ErrNotFound, fmt.Sprintf("process %d of container %s does not run any more", req.PID, id))
	if req.PID <= 0 {
		return gone
	}
	fd, err := unix.PidfdOpen(req.PID, 0)
	if err != nil {
		return gone
	}
	p := newProcess(s, record{ContainerID: id, PID: req.PID, StartedAt: req.StartedAt, CgroupPaths: req.CgroupPaths, HostPID: req.HostPID, Paused: req.Paused, Limited: true, Log: req.Log, Runtime: otherOf(s, id)})
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	if containerOf(req.PID) != id || ended(p.pidfd) { // the number may be another's by now
		p.pidfd.Close()
		return gone
	}
	p.rec.OOMs, _ = p.oomKills() // who told them is not known
	findGroups(p)
	if err := p.findOutput(req.Pipes); err != nil {
		p.withoutLog(err)
	}
	s.mu.Lock()
	s.containers[id] = p
	s.mu.Unlock()
	if err := p.deposit(); err != nil {
		s.logger.Warn("deposit a process with the holder", "error", err)
	}
	p.release()
	p.run()
	s.logger.Warn("a container was found again that keeper and holder had lost", "container", id)
	return nil
}

// findOutput opens the pipes again that the container writes to, and its log. On
// error there is no log.
func (p *process) findOutput(pipes [2]uint64) error {
	var failed error
	if d := p.rec.Log.Driver; d != "none" && d != "" {
		p.log, failed = logs.Open(logConfig(p.rec.Log), firstGeneration)
	}
	for i, ino := range pipes {
		if ino == 0 {
			continue
		}
		fd := openPipe(p.rec.CgroupPaths, ino)
		if fd < 0 {
			continue
		}
		st := &stream{p: p, index: i, f: os.NewFile(uintptr(fd), "pipe")}
		p.streams[i] = st
		if p.log != nil && failed == nil {
			st.spool, failed = newSpool()
		}
	}
	return failed
}

// openPipe opens the reading end of a pipe that some process inside has; -1:
// none has it.
func openPipe(paths map[string]string, ino uint64) int {
	for _, d := range paths {
		b, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, pid := range strings.Fields(string(b)) {
			links, _ := filepath.Glob("/proc/" + pid + "/fd/*") // its pattern is sound
			for _, l := range links {
				if to, err := os.Readlink(l); err != nil || to != fmt.Sprintf("pipe:[%d]", ino) {
					continue
				}
				if fd, err := unix.Open(l, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
					return fd
				}
			}
		}
		break // they are in each directory
	}
	return -1
}

// ended says whether a process has ended; a closed pidfd is one of those.
func ended(pidfd *os.File) bool {
	n := 0
	err := using(pidfd, func(fd int) (err error) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err
	})
	return err != nil || n > 0
}

// pipesOf are the inodes of the pipes by which a container's output comes.
func pipesOf(out [2]*os.File) (ino [2]uint64) {
	for i, f := range out {
		if f == nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(rawFD(f), &st) == nil {
			ino[i] = st.Ino
		}
	}
	return ino
}
