package box

import (
	"os"
	"sync"

	"hezi/internal/box/initbin"

	"golang.org/x/sys/unix"
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
type Runtime struct {
	init    *os.File // hezi-init, read-only in memory
	cgroups cgroups
	pool    *pool
	standby *standbys

	mu      sync.Mutex          // guards waiting
	waiting map[string]*waiting // boxes that are prepared, by id

	tinyOnce sync.Once
	tiny     *os.File
	tinyErr  error

	enterOnce sync.Once
	enter     *os.File
	enterErr  error
}

// NewRuntime puts init into memory, grows the descriptor table once and
// prepares the pool.
func NewRuntime(o Options) (*Runtime, error) {
	groups, err := newCgroups(o.Identity)
	if err != nil {
		return nil, err
	}
	return newRuntime(o, groups)
}

func newRuntime(o Options, groups cgroups) (*Runtime, error) {
	growDescriptors()
	file, err := initbin.Init()
	if err != nil {
		return nil, err
	}
	r := &Runtime{init: file, cgroups: groups, standby: newStandbys(), waiting: map[string]*waiting{}}
	r.pool = newPool(r, o.Pool)
	return r, nil
}

// growDescriptors makes the descriptor table large once: growing it later, in
// a process with threads, waits for an RCU grace period each time.
func growDescriptors() {
	if fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 1000); err == nil {
		unix.Close(fd)
	}
}

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

// Leave ends what is kept in a container's cgroup for its next exec. It must
// precede the removal of the cgroup.
func (r *Runtime) Leave(cgroupPaths map[string]string) { r.standby.leave(cgroupPaths) }

// Close ends what is kept for starts and execs to come.
func (r *Runtime) Close() error {
	r.pool.close()
	r.standby.close()
	r.mu.Lock()
	left := r.waiting
	r.waiting = map[string]*waiting{}
	r.mu.Unlock()
	for _, w := range left {
		w.timer.Stop()
		w.kill()
	}
	if r.tiny != nil {
		r.tiny.Close()
	}
	if r.enter != nil {
		r.enter.Close()
	}
	return r.init.Close()
}
