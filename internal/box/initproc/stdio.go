package initproc

import (
	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

// stdio gives the descriptors that become 0, 1 and 2.
func (s *session) stdio(who *identity) ([3]int, error) {
	var out [3]int
	if s.plan.Process.Terminal {
		peer, err := s.terminal(who)
		return [3]int{peer, peer, peer}, err
	}
	for i, index := range s.plan.Stdio {
		if fd := s.fd(index); fd >= 0 {
			own(fd, owner(&s.plan, who))
			out[i] = fd
			continue
		}
		out[i] = null(i)
	}
	return out, nil
}

// own lets a program that is not root open its own /dev/stdout again. Streams
// that cannot be given away (a file on a read-only file system) stay as they are.
func own(fd, uid int) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || int(st.Uid) == uid || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
		return
	}
	_ = unix.Fchown(fd, uid, -1)
}

// null is the container's /dev/null if that is what it should be, else the
// host's, which init itself was started with.
func null(spare int) int {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return spare
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		unix.Close(fd)
		return spare
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_RDWR)
	return fd
}

// terminal opens a terminal of the container's own devpts. The peer comes from
// the master by ioctl, never from a path (CVE-2025-52565).
func (s *session) terminal(who *identity) (int, error) {
	const step = "terminal"
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fail(step, "/dev/pts/ptmx", err, "cannot open a terminal in the container (is /dev/pts mounted there?)")
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(master, &fs) != nil || fs.Type != unix.DEVPTS_SUPER_MAGIC || unix.Fstat(master, &st) != nil || st.Rdev != unix.Mkdev(5, 2) {
		return -1, fail(step, "/dev/pts/ptmx", nil, "/dev/pts/ptmx in the container is not a terminal multiplexer")
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, fail(step, "/dev/pts/ptmx", err, "cannot unlock the terminal")
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, fail(step, "/dev/pts/ptmx", errno, "cannot open the terminal's other end")
	}
	p := &s.plan.Process
	if p.Height != 0 || p.Width != 0 {
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: p.Height, Col: p.Width}); err != nil {
			return -1, fail(step, "", err, "cannot set the terminal's size")
		}
	}
	if err := unix.Fchown(int(peer), owner(&s.plan, who), -1); err != nil && err != unix.EPERM && err != unix.EINVAL {
		return -1, fail(step, "", err, "cannot give the terminal to the user")
	}
	if !s.plan.Join {
		if err := console(int(peer)); err != nil {
			return -1, fail(step, "/dev/console", err, "cannot mount the terminal at /dev/console")
		}
	}
	if err := s.send([]byte{plan.Console}, master); err != nil {
		return -1, err
	}
	unix.Close(master)
	return int(peer), nil
}

// console binds the terminal at /dev/console, if the box has that file.
func console(peer int) error {
	target, err := unix.Open("/dev/console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	tree, err := unix.OpenTree(peer, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return attach(tree, target)
}
