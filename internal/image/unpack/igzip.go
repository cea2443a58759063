package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

const (
	// worthwhile is how long a gzip stream must be, in bytes, to be given to
	// igzip: in the time that a process takes to start, Go inflates as much.
	worthwhile = 128 << 10
	// pipeSize is asked of the kernel for each pipe, in bytes; what it allows to
	// everybody (/proc/sys/fs/pipe-max-size, pipe(7)).
	pipeSize = 1 << 20
	// nobody is the user of the kernel's overflow ids.
	nobody = 65534
)

// errInflate says that igzip refused its input.
var errInflate = errors.New("gzip: the compressed data is damaged or ends too soon")

// igzip is the path of Intel's inflater (Debian's package isal), "" where there
// is none that works in its cage. It inflates in less than half the time of
// Go's, and a layer can be unpacked no faster than that.
var igzip = sync.OnceValue(func() string {
	path, err := exec.LookPath("igzip")
	if err != nil {
		return ""
	}
	const text = "a trial"
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	p, err := startInflater(path, &b)
	if err != nil {
		return ""
	}
	defer p.Close()
	if got, err := io.ReadAll(p); err != nil || string(got) != text {
		return ""
	}
	return path
})

// inflate reads a gzip stream.
func inflate(b *bufio.Reader) (io.ReadCloser, error) {
	if head, _ := b.Peek(worthwhile); len(head) == worthwhile {
		if path := igzip(); path != "" {
			return startInflater(path, b)
		}
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("decompress with gzip: %w", err)
	}
	return z, nil
}

// inflater is a process that inflates. It reads from its source only while
// somebody reads from it: after Close, nothing reads the source any more.
type inflater struct {
	source   io.Reader
	process  *os.Process
	in, out  int // -1 once closed
	chunk    []byte
	pending  []byte // of chunk, not yet written to in
	drained  bool   // the source has ended
	finished error  // what Read goes on saying
}

// startInflater starts igzip where damaged or hostile data can do no harm: as
// nobody, in process, network and IPC namespaces of its own, without a way to
// new privileges, and where the kernel has Landlock (5.13) unable to write
// to any file.
func startInflater(path string, source io.Reader) (*inflater, error) {
	p := &inflater{source: source, in: -1, out: -1, chunk: make([]byte, worthwhile)}
	stdin, err := p.pipe(&p.in, 1)
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	stdout, err := p.pipe(&p.out, 0)
	if err != nil {
		p.Close()
		return nil, err
	}
	defer stdout.Close()
	if p.process, err = cage(path, stdin, stdout); err != nil {
		p.Close()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return p, nil
}

// pipe makes a pipe, of which fd is this side's end, 0 to read and 1 to write,
// that never blocks: Read waits for both pipes at once.
func (p *inflater) pipe(fd *int, end int) (other *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe to igzip: %w", err)
	}
	*fd, other = ends[end], os.NewFile(uintptr(ends[1-end]), "pipe")
	_, _ = unix.FcntlInt(uintptr(*fd), unix.F_SETPIPE_SZ, pipeSize) // or as large as it is
	if err := unix.SetNonblock(*fd, true); err != nil {
		other.Close()
		return nil, err
	}
	return other, nil
}

// cage starts path from a thread that has given up its rights and ends.
func cage(path string, stdin, stdout *os.File) (*os.Process, error) {
	type result struct {
		p   *os.Process
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		p, err := confined(path, stdin, stdout)
		done <- result{p, err}
	}()
	got := <-done
	return got.p, got.err
}

func confined(path string, stdin, stdout *os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := denyWrites(); err != nil {
		return nil, err
	}
	return os.StartProcess(path, []string{"igzip", "-d", "-c"}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{stdin, stdout, null},
		Sys: &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		},
	})
}

// denyWrites forbids this thread, and what it starts, to change anything in
// any file system (landlock(7)).
func denyWrites() error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM}
	// The first version's size: its kernels know no more.
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP || errno == unix.EPERM {
		return nil // not in this kernel, not enabled at boot, or forbidden by a filter around us
	}
	if errno != 0 {
		return fmt.Errorf("make a Landlock ruleset: %w", errno)
	}
	defer unix.Close(int(fd))
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("enforce a Landlock ruleset: %w", errno)
	}
	return nil
}

func (p *inflater) Read(b []byte) (int, error) {
	if p.finished != nil || len(b) == 0 {
		return 0, p.finished
	}
	n, err := p.read(b)
	if err != nil {
		p.finished = err
	}
	return n, err
}

func (p *inflater) read(b []byte) (int, error) {
	for {
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(p.out, b) })
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, p.end()
		case err != unix.EAGAIN:
			return 0, fmt.Errorf("read from igzip: %w", err)
		}
		if err := p.feed(); err != nil {
			return 0, err
		}
	}
}

// feed gives the process more, or waits until it has something or wants some.
func (p *inflater) feed() error {
	if len(p.pending) == 0 && !p.drained {
		n, err := p.source.Read(p.chunk)
		p.pending = p.chunk[:n]
		if err == io.EOF {
			p.drained = true
		} else if err != nil {
			return err
		}
	}
	if len(p.pending) > 0 {
		n, err := ignoringEINTR(func() (int, error) { return unix.Write(p.in, p.pending) })
		if err == nil {
			p.pending = p.pending[n:]
			return nil
		}
		if err == unix.EPIPE { // it has refused the rest: it ends, and says so by its status
			p.pending, p.drained = nil, true
		} else if err != unix.EAGAIN {
			return fmt.Errorf("write to igzip: %w", err)
		}
	}
	if p.drained && len(p.pending) == 0 && p.in >= 0 {
		unix.Close(p.in)
		p.in = -1
	}
	wait := []unix.PollFd{{Fd: int32(p.out), Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLOUT}}
	if len(p.pending) > 0 {
		wait[1].Fd = int32(p.in)
	}
	_, err := ignoringEINTR(func() (int, error) { return unix.Poll(wait, -1) })
	if err != nil {
		return fmt.Errorf("wait for igzip: %w", err)
	}
	return nil
}

// end is io.EOF if the process ended well.
func (p *inflater) end() error {
	status, err := p.process.Wait()
	p.process = nil
	switch {
	case err != nil:
		return fmt.Errorf("wait for igzip: %w", err)
	case status.Exited() && status.ExitCode() == 0:
		// What follows a stream is ignored, as gzip(1) does, but taken: the source
		// may be a client who has to get rid of it.
		if _, err := io.Copy(io.Discard, p.source); err != nil {
			return err
		}
		return io.EOF
	case status.Exited():
		return errInflate
	}
	return fmt.Errorf("igzip, which was decompressing, ended: %s", status)
}

// Close ends the process; it is never an error.
func (p *inflater) Close() error {
	if p.process != nil {
		_ = p.process.Kill()
		_, _ = p.process.Wait()
		p.process = nil
	}
	for _, fd := range []*int{&p.in, &p.out} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	if p.finished == nil {
		p.finished = os.ErrClosed
	}
	return nil
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
