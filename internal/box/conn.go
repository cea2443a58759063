package box

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"

	"hezi/internal/box/initbin"
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// child is an init process and the keeper's end of its socket.
type child struct {
	pid   int
	pidfd *os.File
	conn  *os.File
}

// kill ends the process and reaps it.
func (c *child) kill() {
	c.conn.Close()
	if c.pidfd != nil {
		_ = unix.PidfdSendSignal(rawFD(c.pidfd), unix.SIGKILL, nil, 0)
	}
	c.reap()
	if c.pidfd != nil {
		c.pidfd.Close()
	}
}

const endTime = time.Second

// end is kill for an init in a cgroup that may be frozen: there it dies only
// when the cgroup is thawed, and is then reaped behind the caller.
func (c *child) end() {
	c.conn.Close()
	_ = unix.PidfdSendSignal(rawFD(c.pidfd), unix.SIGKILL, nil, 0)
	if !ended(rawFD(c.pidfd), endTime) {
		go c.kill()
		return
	}
	c.reap()
	c.pidfd.Close()
}

// ended says whether the process has ended, and waits for that up to most.
func ended(pidfd int, most time.Duration) bool {
	until := time.Now().Add(most)
	for {
		list := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(list, int(max(0, time.Until(until)).Milliseconds()))
		if err != unix.EINTR {
			return err != nil || n > 0
		}
	}
}

// reap waits for the end of a process that is about to end.
func (c *child) reap() {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(c.pid, &status, unix.WALL, nil)
		if err != unix.EINTR {
			return
		}
	}
}

// watch makes reads and writes of the socket fail once ctx ends.
func (c *child) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
}

// sendPlan hands over the plan and its descriptors.
func (c *child) sendPlan(b *bundle) error {
	file, err := initbin.Memfd("hezi-plan", plan.Encode(&b.plan))
	if err != nil {
		return err
	}
	defer file.Close()
	b.files[0] = rawFD(file)
	head := binary.LittleEndian.AppendUint16([]byte{plan.Begin}, uint16(len(b.files)))
	for rest := b.files; len(rest) > 0; {
		n := min(len(rest), plan.DescriptorsEach)
		if err := c.send(head, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (c *child) send(text []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), text, oob, nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	return errors.Join(err, sent)
}

// receive reads one packet; io.EOF means that init's end is closed.
func (c *child) receive() (text []byte, file *os.File, err error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	text = make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var got error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, got = unix.Recvmsg(int(fd), text, oob, unix.MSG_CMSG_CLOEXEC)
		return got != unix.EAGAIN && got != unix.EINTR
	})
	if err = errors.Join(err, got); err != nil {
		return nil, nil, err
	}
	if oobn > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, nil, err
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			return nil, nil, err
		}
		_ = unix.SetNonblock(fds[0], true)
		file = os.NewFile(uintptr(fds[0]), "console")
	}
	if n == 0 {
		return nil, file, io.EOF
	}
	return text[:n], file, nil
}

// failure is the error that a Failed packet carries.
func failure(text []byte) error {
	e := &plan.Error{}
	if len(text) < 5 {
		return errors.New("init failed without saying why")
	}
	if err := plan.Decode(text[5:], e); err != nil {
		return err
	}
	e.Explain(unix.Errno(binary.LittleEndian.Uint32(text[1:])))
	return (*Error)(e)
}
