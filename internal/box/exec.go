package box

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"hezi/internal/box/cgroup"
	"hezi/internal/box/initproc"
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

const allNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS

// Exec starts p in the running box whose first process is pid (pidfd proves
// that pid still is that process), in the box's namespaces and cgroup. The caller
// may close pidfd meanwhile.
func (r *Runtime) Exec(ctx context.Context, pid int, pidfd *os.File, cgroupPaths map[string]string, p *Process, stdio Stdio) (*Proc, error) {
	b := newBundle()
	defer b.close()
	b.plan.Join = true
	if err := b.process(p); err != nil {
		return nil, err
	}
	b.lendStdio(stdio)
	box, err := copyOf(pidfd)
	if errors.Is(err, os.ErrClosed) {
		return nil, stepError(StepNamespace, "", nil, "the container is not running any more")
	}
	if err != nil {
		return nil, stepError(StepNamespace, "", err, "cannot hold on to the container's first process")
	}
	b.plan.Enter = []plan.Entry{{FD: b.give(box), Flags: allNamespaces, Name: "container's"}}
	if err := b.joinUsers(pid, box); err != nil {
		return nil, err
	}
	if p.OwnRoot {
		if err := b.joinRoot(pid, box); err != nil {
			return nil, err
		}
	}
	if len(cgroupPaths) == 1 && cgroupPaths[""] != "" {
		// systemd mounts cgroup v2 with nsdelegate: from within the container's cgroup
		// namespace nobody outside can be put into its group (cgroups(7)).
		b.plan.Enter[0].Flags &^= unix.CLONE_NEWCGROUP
		return r.execBorn(ctx, b, cgroupPaths, p.Group)
	}
	if key := keyOf(cgroupPaths); key != "" {
		if !p.Rare {
			defer r.standby.prepare(r, key, cgroupPaths, p.Group != "", box)
		}
		if c := r.standby.take(key, p.Group); c != nil {
			if proc, served, err := c.serve(ctx, b, cgroupPaths); served {
				return proc, leaveGroup(cgroupPaths, p.Group, err)
			}
		}
	}
	c, err := r.spawn(joinBirth())
	if err != nil {
		return nil, leaveGroup(cgroupPaths, p.Group, err)
	}
	proc, err := c.exec(ctx, b, cgroupPaths, func() error {
		inner, err := makeGroup(cgroupPaths, p.Group)
		if err != nil {
			return err
		}
		return joinGroup(cgroupPaths, inner, c.pid)
	})
	return proc, leaveGroup(cgroupPaths, p.Group, err)
}

// joinRoot has a join enter the root of the box's first process.
func (b *bundle) joinRoot(pid, pidfd int) error {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		b.plan.Root = b.give(fd)
		if !ended(pidfd, 0) { // else the number can be another's
			return nil
		}
	}
	return stepError(StepNamespace, "mnt", err, "cannot enter the container's root file system (is it still running?)")
}

// execBorn is Exec on cgroup v2, where the process is born in its group.
func (r *Runtime) execBorn(ctx context.Context, b *bundle, paths map[string]string, group string) (*Proc, error) {
	inner, err := makeGroup(paths, group)
	if err != nil {
		return nil, err
	}
	fd, err := cgroup.OpenJoin(paths, inner)
	if err != nil {
		return nil, leaveGroup(paths, group, stepError(StepCgroup, inner, nil, err.Error()))
	}
	b.plan.CgroupDir = b.give(fd)
	c, err := r.spawn(joinBirth())
	if err != nil {
		return nil, leaveGroup(paths, group, err)
	}
	proc, err := c.exec(ctx, b, paths, func() error { return nil })
	return proc, leaveGroup(paths, group, err)
}

// makeGroup makes the group of an exec inside the container's, and gives its name
// there; "" where it has none.
func makeGroup(paths map[string]string, group string) (inner string, err error) {
	if _, ok := cgroup.InnerHierarchy(paths); group == "" || !ok {
		return "", nil
	}
	if _, err := cgroup.MakeInner(paths, group); err != nil {
		return "", stepError(StepCgroup, group, nil, err.Error())
	}
	return group, nil
}

// leaveGroup removes the group of an exec that failed; it returns err.
func leaveGroup(paths map[string]string, group string, err error) error {
	if dir := cgroup.Inner(paths, group); err != nil && group != "" && dir != "" {
		cgroup.RemoveInner(dir) // what cannot go now goes with the container's
	}
	return err
}

// serve has a standby do its work. served is false when it did not say its
// first word, dead or standing still: it has made no process then, since it does
// that only after Go.
func (c *child) serve(ctx context.Context, b *bundle, cgroupPaths map[string]string) (proc *Proc, served bool, err error) {
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(standbyWord, cancel)
	defer late.Stop()
	proc, err = c.exec(short, b, cgroupPaths, func() error {
		if !late.Stop() {
			return context.DeadlineExceeded
		}
		served = true
		return nil
	})
	return proc, served || ctx.Err() != nil, err
}

func joinBirth() birth { return birth{mode: initproc.ModeJoin, cgroupFD: -1, pidNS: -1, userNS: -1} }

// exec has a join init do its work, after which it ends. enter puts it into the
// cgroup, where it was not born there.
func (c *child) exec(ctx context.Context, b *bundle, cgroupPaths map[string]string, enter func() error) (*Proc, error) {
	proc := &Proc{CgroupPaths: cgroupPaths}
	err := c.drive(ctx, b, proc, func(message byte) error {
		if message == plan.NeedCgroup && b.plan.CgroupDir == plan.NoFD {
			return enter()
		}
		return nil
	})
	if err == nil {
		proc.PidFD, err = openPidfd(proc.PID)
	}
	if err != nil {
		c.stop(proc)
		proc.abandon()
		c.end()
		return nil, err
	}
	c.conn.Close()
	c.reap()
	c.pidfd.Close()
	return proc, nil
}

// openPidfd is safe for a child that is not reaped yet: its pid cannot be
// anyone else's.
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, stepError(StepNamespace, "", err, "cannot open the new process")
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// stop ends stage 1 of a failed exec and reads what it had said before: it may
// have made the process already.
func (c *child) stop(proc *Proc) {
	_ = unix.PidfdSendSignal(rawFD(c.pidfd), unix.SIGKILL, nil, 0)
	_ = c.conn.SetDeadline(time.Now().Add(time.Second))
	for proc.PID == 0 {
		text, file, err := c.receive()
		if err != nil {
			return
		}
		if file != nil {
			file.Close()
		}
		if text[0] == plan.Child {
			proc.PID = childPID(text)
		}
	}
}

func childPID(text []byte) int { return int(binary.LittleEndian.Uint32(text[1:])) }

// abandon ends and reaps what a failed exec left.
func (p *Proc) abandon() {
	if p.Console != nil {
		p.Console.Close()
	}
	if p.PID == 0 {
		return
	}
	_ = unix.Kill(p.PID, unix.SIGKILL)
	(&child{pid: p.PID}).reap()
}
