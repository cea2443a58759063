package initproc

import (
	"encoding/binary"
	"io"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

const socket = 3

// session is one conversation with the keeper.
type session struct {
	plan plan.Plan
	text []byte // room for the plan's text, or nil
	fds  []int
	went bool // the keeper said that the cgroup is entered

	unshared bool // the cgroup namespace is new
	nullUsed bool // the host's /dev/null has been attached

	root int // the new root, O_PATH
	dev  int // the file system at /dev, if it is a new one: a path could lead elsewhere
	proc int // a procfs that is attached nowhere, of processes only

	outside  bool // the root is of a box that runs, or that nobody is in: see Attach
	settings int  // another, with the kernel's settings, if the plan has some

	stock *stock // of a spare

	who *identity // the program's

	early map[*plan.Mount]int // made before the host's mounts were left

	tape tape
}

// await receives plans until one is no stock to build.
func (s *session) await() error {
	s.proc, s.root, s.dev = -1, -1, -1
	for {
		if err := s.receive(); err != nil || !s.plan.Stock {
			return err
		}
		if err := s.build(); err != nil {
			return err
		}
		s.tape, s.text = rehearse()
	}
}

// receive waits for the plan. A keeper that goes away ends init silently.
func (s *session) receive() error {
	buf := make([]byte, 16)
	oob := make([]byte, unix.CmsgSpace(4*plan.DescriptorsEach))
	for total := 1; len(s.fds) < total; {
		n, oobn, _, _, err := recvmsg(buf, oob)
		if err != nil {
			return err
		}
		if n < 3 || buf[0] != plan.Begin {
			return fail("plan", "", nil, "the keeper sent an unknown message")
		}
		total = int(binary.LittleEndian.Uint16(buf[1:]))
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return fail("plan", "", err, "cannot read the keeper's message")
		}
		for i := range messages {
			fds, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return fail("plan", "", err, "cannot read the keeper's descriptors")
			}
			s.fds = append(s.fds, fds...)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.fds[0], &st); err != nil {
		return fail("plan", "", err, "cannot read the plan")
	}
	text := s.text
	if int64(len(text)) < st.Size {
		text = make([]byte, st.Size)
	}
	text = text[:st.Size]
	if _, err := unix.Pread(s.fds[0], text, 0); err != nil {
		return fail("plan", "", err, "cannot read the plan")
	}
	unix.Close(s.fds[0])
	if err := plan.Decode(text, &s.plan); err != nil {
		return fail("plan", "", err, "cannot read the plan")
	}
	return nil
}

func recvmsg(buf, oob []byte) (n, oobn, flags int, from unix.Sockaddr, err error) {
	for {
		n, oobn, flags, from, err = unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		return n, oobn, flags, from, err
	}
}

// fd is the descriptor with the index i of the plan.
func (s *session) fd(i int) int {
	if i < 0 || i >= len(s.fds) {
		return -1
	}
	return s.fds[i]
}

func (s *session) send(b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(socket, b, oob, nil, 0)
		if err != unix.EINTR {
			return err
		}
	}
}

// wait returns when the keeper says Go.
func (s *session) wait() error {
	var b [1]byte
	_, _, _, _, err := recvmsg(b[:], nil)
	return err
}

// enterCgroup returns once the keeper has put this process into its cgroup.
func (s *session) enterCgroup() error {
	if s.went {
		return nil
	}
	s.went = true
	if err := s.send([]byte{plan.NeedCgroup}); err != nil {
		return err
	}
	return s.wait()
}

func (s *session) report(err error) {
	if err == io.EOF {
		return
	}
	e, ok := err.(*plan.Error)
	if !ok {
		e = &plan.Error{Step: "init", Message: err.Error(), ExitCode: 125}
	}
	_ = s.send(failure(e))
}

func failure(e *plan.Error) []byte {
	return append([]byte{plan.Failed, 0, 0, 0, 0}, plan.Encode(e)...)
}
