package harness

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Session is a program on a terminal of the test's.
type Session struct {
	tty  *os.File
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	out strings.Builder
	at  int // what Expect has seen
}

// Terminal starts cmd on a new terminal of 24 rows and 80 columns.
func Terminal(t testing.TB, cmd *exec.Cmd) *Session {
	t.Helper()
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{tty: tty, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			s.mu.Lock()
			s.out.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		tty.Close()
	})
	return s
}

// Type sends keys.
func (s *Session) Type(t testing.TB, keys string) {
	t.Helper()
	if _, err := s.tty.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// Resize changes the terminal's size.
func (s *Session) Resize(t testing.TB, rows, cols uint16) {
	t.Helper()
	if err := pty.Setsize(s.tty, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.Fatal(err)
	}
}

// Expect waits until the output has text, behind what was expected before.
func (s *Session) Expect(t testing.TB, text string) {
	t.Helper()
	if s.Shows(text, time.Minute) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Fatalf("the terminal does not show %q; it shows %q", text, s.out.String())
}

// Shows is Expect that may fail.
func (s *Session) Shows(text string, patience time.Duration) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		all := s.out.String()
		i := strings.Index(all[s.at:], text)
		if i >= 0 {
			s.at += i + len(text)
		}
		s.mu.Unlock()
		if i >= 0 {
			return true
		}
	}
	return false
}

// Wait waits for the program's end and returns its exit code.
func (s *Session) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		t.Fatal("the program on the terminal did not end")
	}
	var exit *exec.ExitError
	if err := s.cmd.Wait(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return 0
}
