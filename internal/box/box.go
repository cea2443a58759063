package box

import (
	"context"
	"errors"
	"os"
)

// Options of a Runtime.
type Options struct {
	// Identity tells two engines on one machine apart; it names cgroup parents.
	Identity string
	// Pool is how many prepared inits wait for a start; 0: none.
	Pool int
}

// Runtime starts boxes. The keeper has one. Its methods may be called from
// any goroutine.
type Runtime struct{}

// NewRuntime seals init into a memfd, grows the descriptor table once and
// prepares the pool.
func NewRuntime(o Options) (*Runtime, error) { return nil, errors.New("box: not built") }

// Stdio is the container's side of the standard streams. A nil file is
// /dev/null. With Process.Terminal all are ignored. Start and Exec do not
// close them.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// Proc is a started first process or exec. The caller owns PidFD and
// Console and reaps the process: it is always the caller's own child.
type Proc struct {
	PID     int      // in the host's pid namespace
	PidFD   *os.File // poll for exit, then waitid(P_PIDFD)
	Console *os.File // the terminal's master, or nil
	// CgroupPaths: controller to directory on v1, "" to directory on v2.
	CgroupPaths map[string]string
}

// Start makes a box and returns once its program runs. On error nothing of it
// is left, and the error is an *Error where a step failed.
func (r *Runtime) Start(ctx context.Context, spec *Spec, stdio Stdio) (*Proc, error) {
	return nil, errors.New("box: not built")
}

// Exec starts p in the running box whose first process is pid (pidfd proves
// that pid still is that process), in the box's namespaces and cgroup.
func (r *Runtime) Exec(ctx context.Context, pid int, pidfd *os.File, cgroupPaths map[string]string, p *Process, stdio Stdio) (*Proc, error) {
	return nil, errors.New("box: not built")
}

// Close ends the pool.
func (r *Runtime) Close() error { return nil }
