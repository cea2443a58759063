package server

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/runtimes"
)

// Runtime starts processes; *box.Runtime is one.
type Runtime interface {
	Start(ctx context.Context, spec *box.Spec, stdio box.Stdio) (*box.Proc, error)
	Prepare(id string, users *box.Users, n *box.Namespaces, hooked bool) (pid int, err error)
	Exec(ctx context.Context, pid int, pidfd *os.File, cgroupPaths map[string]string, p *box.Process, stdio box.Stdio) (*box.Proc, error)
	// Leave ends what the runtime keeps in a container's cgroup.
	Leave(cgroupPaths map[string]string)
	Close() error
}

var _ Runtime = (*box.Runtime)(nil)

// Others runs containers by other OCI runtimes; *runtimes.Client is one.
type Others interface {
	Start(ctx context.Context, spec *box.Spec, l *runtimes.Launch, stdio box.Stdio) (*box.Proc, error)
	Exec(ctx context.Context, id string, groups map[string]string, p *box.Process, stdio box.Stdio) (*box.Proc, error)
	Kill(id string, sig unix.Signal) error
	Pause(id string) error
	Resume(id string) error
	Update(id string, r *box.Resources) error
	// Delete takes away what one has on the host and at its runtime.
	Delete(id string) error
	// All are those that have something there.
	All() []string
	// Name is a container's runtime, "" without another one.
	Name(id string) string
}

var _ Others = (*runtimes.Client)(nil)

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
