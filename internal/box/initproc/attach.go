package initproc

import (
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// Attach makes the mounts of a plan on a root that no box is in, for somebody to
// look into, or on that of a box that runs, and closes their files. Nothing is
// mounted on what the kernel shows, where a link of the box's may lead. root is attached in the calling thread's
// mount namespace; the thread must be alone in its file system attributes
// (CLONE_FS).
func Attach(root int, p *plan.Plan, files []int) error {
	s := &session{plan: *p, fds: files, root: root, dev: -1, proc: -1, settings: -1, outside: true}
	all := s.plan.Mounts
	for i := range all {
		s.plan.Mounts = all[i : i+1]
		if err := s.mountAll(); err != nil {
			for _, m := range all[i+1:] {
				unix.Close(s.fd(m.FD))
			}
			return err
		}
	}
	return nil
}

// ofKernel refuses a place in a file system that shows the kernel.
func ofKernel(m *plan.Mount, target int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(target, &st); err != nil {
		return err
	}
	name := map[int64]string{unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2"}[int64(st.Type)]
	if name == "" {
		return nil
	}
	return fail(stepMount, m.Target, nil, "nothing can be mounted at "+m.Target+": it lies in the file system "+name)
}
