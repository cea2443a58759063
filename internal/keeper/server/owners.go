package server

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/keeper"
)

// owners finds the containers whose namespaces and mounts a box takes part in.
// What it opens is the caller's to close, on an error too.
func owners(s *Server, n *box.Namespaces, mounts []box.Mount) ([]*os.File, error) {
	var list []*box.Owner
	for _, ns := range []*box.Namespace{&n.PID, &n.IPC, &n.UTS, &n.Net, &n.Cgroup, &n.User} {
		if ns.Of != nil {
			list = append(list, ns.Of)
		}
	}
	for i := range mounts {
		if o := mounts[i].Of; o != nil {
			list = append(list, o)
		}
	}
	var files []*os.File
	for _, o := range list {
		p, err := s.lookup(o.ID, "")
		if err != nil {
			return files, err
		}
		fd := -1
		err = using(p.pidfd, func(from int) (err error) {
			fd, err = unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 3)
			return err
		})
		if p.exit() != nil || err != nil {
			if fd >= 0 {
				unix.Close(fd)
			}
			return files, keeper.Classed(errdefs.ErrConflict, fmt.Sprintf("container %s is not running", o.ID))
		}
		o.Process = os.NewFile(uintptr(fd), "pidfd")
		files = append(files, o.Process)
	}
	return files, nil
}

// prepare makes a box's namespaces ahead of its start.
func prepare(s *Server, req *keeper.PrepareRequest) (keeper.Prepared, error) {
	files, err := owners(s, &req.Namespaces, nil)
	defer closeFiles(files...)
	if err != nil {
		return keeper.Prepared{}, err
	}
	pid, err := s.rt.Prepare(req.ContainerID, req.Users, &req.Namespaces, req.Hooked)
	if err != nil {
		return keeper.Prepared{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st); err != nil {
		return keeper.Prepared{}, fmt.Errorf("the namespaces of the process %d, which was prepared: %w", pid, err)
	}
	return keeper.Prepared{PID: pid, Net: st.Ino}, nil
}
