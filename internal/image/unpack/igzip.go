package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

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
	// stalled is for how long igzip may neither take nor give anything.
	stalled = 2 * time.Minute
	// dying is for how long it may go on after the end of what it gives.
	dying = 5 * time.Second
)

// errInflate says that igzip refused its input.
var errInflate = errors.New("gzip: the compressed data is damaged or ends too soon")

// ErrInflater is of errors that are igzip's own, not its data's.
var ErrInflater = errors.New("the inflater has failed")

// found is igzip as it was when its trial went well, or did not.
type found struct {
	path    string
	changed time.Time
	works   bool
}

var (
	lastFound   found
	lastFoundMu sync.Mutex
)

// igzip is the path of Intel's inflater (Debian's package isal), "" where there
// is none that works in its cage. It inflates in less than half the time of
// Go's, and a layer can be unpacked no faster than that.
func igzip() string {
	path, err := exec.LookPath("igzip")
	if err != nil {
		return ""
	}
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	lastFoundMu.Lock()
	defer lastFoundMu.Unlock()
	now := found{path: path, changed: st.ModTime()}
	if lastFound.path != now.path || !lastFound.changed.Equal(now.changed) {
		works, err := tryInflater(path)
		if err != nil {
			return "" // no process could be started just now
		}
		now.works = works
		lastFound = now
	}
	if !lastFound.works {
		return ""
	}
	return path
}

// tryInflater says whether igzip inflates; it is an error if it cannot be
// started.
func tryInflater(path string) (bool, error) {
	const text = "a trial"
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text)) // a buffer takes everything
	z.Close()
	p, err := startInflater(path, &b)
	if err != nil {
		return false, err
	}
	defer p.Close()
	got, err := io.ReadAll(p)
	return err == nil && string(got) == text, nil
}

// inflate reads a gzip stream, by igzip if it may and it is worthwhile.
func inflate(b *bufio.Reader, byProgram bool) (io.ReadCloser, error) {
	if byProgram {
		if head, _ := b.Peek(worthwhile); len(head) == worthwhile {
			if path := igzip(); path != "" {
				if p, err := startInflater(path, b); err == nil {
					return p, nil
				} // nothing was read yet: Go does it
			}
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
			return 0, fmt.Errorf("%w: read from igzip: %w", ErrInflater, err)
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
			return fmt.Errorf("%w: write to igzip: %w", ErrInflater, err)
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
	n, err := ignoringEINTR(func() (int, error) { return unix.Poll(wait, int(stalled.Milliseconds())) })
	if err != nil {
		return fmt.Errorf("%w: wait for igzip: %w", ErrInflater, err)
	}
	if n == 0 {
		return fmt.Errorf("%w: igzip did nothing for %v; try again, or remove it (Debian: package isal)", ErrInflater, stalled)
	}
	return nil
}

// end is io.EOF if the process ended well.
func (p *inflater) end() error {
	late := time.AfterFunc(dying, func() { _ = p.process.Kill() })
	status, err := p.process.Wait()
	late.Stop()
	p.process = nil
	switch {
	case err != nil:
		return fmt.Errorf("%w: wait for igzip: %w", ErrInflater, err)
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
	return fmt.Errorf("%w: igzip was ended by a %s, as for lack of memory; try again", ErrInflater, status)
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
