package initproc

import (
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// Attach makes the binds of a plan on a root that no box is in, for somebody to
// look into, and closes their files. root is attached in the calling thread's
// mount namespace; the thread must be alone in its file system attributes
// (CLONE_FS).
func Attach(root int, p *plan.Plan, files []int) error {
	s := &session{plan: *p, fds: files, root: root, dev: -1, proc: -1, settings: -1}
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
