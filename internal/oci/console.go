package oci

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// checkConsole refuses a terminal that nobody would hold.
func checkConsole(terminal bool, socket string, detached bool) error {
	switch {
	case terminal && detached && socket == "":
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case !terminal && socket != "":
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// sendConsole hands a terminal's master to whoever listens (runc's protocol: one
// message with the descriptor).
func sendConsole(socket string, master *os.File) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("hand over the terminal: %w", err)
	}
	defer conn.Close()
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		// The receiver expects a descriptor that blocks.
		if sent = unix.SetNonblock(int(fd), false); sent == nil {
			_, _, sent = conn.(*net.UnixConn).WriteMsgUnix([]byte(master.Name()), unix.UnixRights(int(fd)), nil)
		}
	})
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("hand over the terminal: %w", err)
	}
	return nil
}

// attend waits in the foreground for a process: signals and the terminal's size
// reach it, and its terminal is ours.
func attend(proc *box.Proc) int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)
	output := make(chan struct{})
	restore := func() {}
	if proc.Console != nil {
		defer proc.Console.Close()
		restore = raw()
		resize(proc.Console)
		go func() { _, _ = io.Copy(proc.Console, os.Stdin) }() // it ends with us
		go func() {
			defer close(output)
			_, _ = io.Copy(os.Stdout, proc.Console) // EIO at the end (pty(7))
		}()
	} else {
		close(output)
	}
	defer restore()
	ended := make(chan int, 1)
	go func() { ended <- wait(proc.PID) }()
	for {
		select {
		case code := <-ended:
			<-output
			return code
		case s := <-signals:
			switch n := s.(unix.Signal); n {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // ours
			case unix.SIGWINCH:
				if proc.Console != nil {
					resize(proc.Console)
				}
			default:
				_ = proc.Signal(n) // it may have ended
			}
		}
	}
}

// raw has our terminal pass every key on, until the returned function is called.
func raw() (restore func()) {
	before, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	now := *before // cfmakeraw(3)
	now.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	now.Oflag &^= unix.OPOST
	now.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	now.Cflag = now.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(0, unix.TCSETS, &now) != nil {
		return func() {}
	}
	return func() { _ = unix.IoctlSetTermios(0, unix.TCSETS, before) }
}

func resize(master *os.File) {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	if c, err := master.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	}
}
