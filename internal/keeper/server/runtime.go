package server

import (
	"context"
	"os"

	"hezi/internal/box"
)

// Runtime starts processes; *box.Runtime is one.
type Runtime interface {
	Start(ctx context.Context, spec *box.Spec, stdio box.Stdio) (*box.Proc, error)
	Prepare(id string, users *box.Users, n *box.Namespaces) (pid int, err error)
	Exec(ctx context.Context, pid int, pidfd *os.File, cgroupPaths map[string]string, p *box.Process, stdio box.Stdio) (*box.Proc, error)
	// Leave ends what the runtime keeps in a container's cgroup.
	Leave(cgroupPaths map[string]string)
	Close() error
}

var _ Runtime = (*box.Runtime)(nil)

// Cgroup is one container's cgroup.
type Cgroup interface {
	Kill() error
	Freeze() error
	Thaw() error
	OOMKills() (uint64, error)
	Remove() error
}

// OpenCgroup finds a cgroup by its directories (box.Proc's CgroupPaths).
type OpenCgroup func(paths map[string]string) (Cgroup, error)
