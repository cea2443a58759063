package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	mobyterm "github.com/moby/term"
)

// onTerminal is hezi on a terminal of the test's own.
type onTerminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	before mobyterm.State // the terminal's settings before hezi

	mu  sync.Mutex
	out strings.Builder // guarded by mu
	eof chan struct{}
}

// hezi starts `hezi args...` on a terminal of 24 rows and 80 columns.
func hezi(t *testing.T, socket string, args ...string) *onTerminal {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	state, err := mobyterm.SaveState(slave.Fd())
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("hezi")
	if err != nil {
		t.Fatal(err)
	}
	h := &onTerminal{t: t, master: master, before: *state, eof: make(chan struct{}), cmd: exec.Command(program, args...)}
	h.cmd.Stdin, h.cmd.Stdout, h.cmd.Stderr = slave, slave, slave
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	h.cmd.Env = append(os.Environ(), "HEZI_HOST=unix://"+socket, "DOCKER_CONFIG="+t.TempDir())
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Our copy of the slave stays open: the settings are read from it at the end.
	t.Cleanup(func() {
		_ = h.cmd.Process.Kill()
		master.Close()
		slave.Close()
		<-h.eof
	})
	go func() {
		defer close(h.eof)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			h.mu.Lock()
			h.out.Write(buf[:n])
			h.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return h
}

func (h *onTerminal) shows() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.out.String()
}

func (h *onTerminal) expect(text string) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(h.shows(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("the terminal does not show %q but %q", text, h.shows())
		}
	}
}

func (h *onTerminal) press(keys string) {
	h.t.Helper()
	if _, err := h.master.WriteString(keys); err != nil {
		h.t.Fatal(err)
	}
}

// ended waits for the end and returns the exit code.
func (h *onTerminal) ended() int {
	h.t.Helper()
	done := make(chan error, 1)
	go func() { done <- h.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
				return 128 + int(ws.Signal()) // as a shell shows it
			}
			return exit.ExitCode()
		}
	case <-time.After(10 * time.Second):
		h.t.Fatalf("hezi does not end; the terminal shows %q", h.shows())
	}
	return 0
}

// exits waits for the end, and for the terminal to be as it was.
func (h *onTerminal) exits(code int) {
	h.t.Helper()
	if got := h.ended(); got != code {
		h.t.Errorf("exit code %d, want %d; the terminal shows %q", got, code, h.shows())
	}
	h.isRestored()
}

func (h *onTerminal) isRestored() {
	h.t.Helper()
	now, err := mobyterm.SaveState(h.cmd.Stdin.(*os.File).Fd())
	if err != nil {
		h.t.Fatal(err)
	}
	if *now != h.before {
		h.t.Error("the terminal was not given back as it was")
	}
}

func withEngine(t *testing.T) (string, *engine) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	return socket, startEngine(t, socket)
}

func TestTerminalSizeKeysAndExitCode(t *testing.T) {
	socket, _ := withEngine(t)
	h := hezi(t, socket, "run", "--rm", "-it", "busybox", "sh", "-c", `trap 'stty size' WINCH; stty size; while ! read line; do :; done; echo got $line; exit 3`)
	h.expect("24 80\r\n")
	if err := pty.Setsize(h.master, &pty.Winsize{Rows: 40, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	h.expect("40 100\r\n")
	h.press("hello\r")
	h.expect("got hello\r\n")
	h.exits(3)
}

func TestTerminalIsRaw(t *testing.T) {
	socket, _ := withEngine(t)
	// ctrl-c is a byte for the container's terminal, not a signal for hezi.
	h := hezi(t, socket, "run", "--rm", "-it", "busybox", "sh", "-c", `trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done`)
	h.expect("ready")
	h.press("\x03")
	h.expect("interrupted")
	h.exits(9)
}

func TestDetachAndAttachAgain(t *testing.T) {
	socket, e := withEngine(t)
	h := hezi(t, socket, "run", "-it", "--name", "box", "busybox", "sh", "-c", `echo ready; read a; echo got $a; exit 4`)
	h.expect("ready")
	h.press("\x10\x11")
	h.exits(0)
	e.mu.Lock()
	state := e.find("box").state
	e.mu.Unlock()
	if state != "running" {
		t.Fatalf("the container is %s after its user has detached", state)
	}
	h = hezi(t, socket, "attach", "--detach-keys", "ctrl-x,x", "box")
	h.press("\x18x")
	h.expect("read escape sequence")
	h.exits(1)
	h = hezi(t, socket, "attach", "box")
	h.press("again\r")
	h.expect("got again")
	h.exits(4)
}

func TestSignalsRestoreTheTerminal(t *testing.T) {
	socket, _ := withEngine(t)
	hezi(t, socket, "run", "-d", "--name", "box", "busybox", "sleep", "100").exits(0)
	for sig, code := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGHUP: 129, syscall.SIGINT: 130} {
		h := hezi(t, socket, "exec", "-it", "box", "sh", "-c", "echo ready; sleep 100")
		h.expect("ready")
		if err := h.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		h.exits(code)
	}
	h := hezi(t, socket, "exec", "-it", "box", "sh", "-c", "echo ready; sleep 100")
	h.expect("ready")
	if err := h.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	_ = h.cmd.Wait()
	h.isRestored()
}

func TestStartThatFailsRestoresTheTerminal(t *testing.T) {
	socket, _ := withEngine(t)
	h := hezi(t, socket, "run", "--rm", "-it", "busybox", "nosuch")
	h.expect("executable file not found")
	h.exits(127)
}

func TestSignalsAreProxied(t *testing.T) {
	socket, _ := withEngine(t)
	const script = `trap 'echo term; exit 8' TERM; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done`
	h := hezi(t, socket, "run", "--rm", "busybox", "sh", "-c", script)
	h.expect("ready")
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGWINCH, syscall.SIGTERM} {
		if err := h.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if sig == syscall.SIGHUP {
			h.expect("hup")
		}
	}
	h.expect("term")
	h.exits(8)

	// Without the proxy the signal ends hezi, and the container goes on.
	h = hezi(t, socket, "run", "--name", "box", "--sig-proxy=false", "busybox", "sh", "-c", script)
	h.expect("ready")
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.exits(143)
	hezi(t, socket, "exec", "box", "true").exits(0)
}

func TestCtrlCEndsFollowing(t *testing.T) {
	socket, e := withEngine(t)
	hezi(t, socket, "run", "-d", "--name", "box", "busybox", "sleep", "100").exits(0)
	h := hezi(t, socket, "wait", "box")
	e.asked(t, "POST /containers/box/wait")
	h.press("\x03")
	h.exits(130)
}

func TestTableOnATerminal(t *testing.T) {
	socket, _ := withEngine(t)
	h := hezi(t, socket, "images", "--digests")
	h.exits(0)
	h.expect("REPOSITORY   TAG       DIGEST    IMAGE ID")
}

func TestImagesOnATerminal(t *testing.T) {
	socket, _ := withEngine(t)
	h := hezi(t, socket, "images")
	h.exits(0)
	h.expect("Info -> U In Use\r\n\x1b[1mIMAGE\x1b[0m")
	h.expect("\x1b[1;34mbusybox:latest\x1b[0m")
	t.Setenv("NO_COLOR", "1")
	h = hezi(t, socket, "images")
	h.exits(0)
	h.expect("\r\nbusybox:latest")
}

// TestTerminalThatHangsUp holds that hezi does not outlive its terminal.
func TestTerminalThatHangsUp(t *testing.T) {
	socket, e := withEngine(t)
	program, err := exec.LookPath("hezi")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"run", "-it", "--name", "box", "busybox", "sh", "-c", "trap '' HUP; echo up; sleep 100"},
		{"exec", "-it", "box", "sh", "-c", "trap '' HUP; echo up; sleep 100"},
	} {
		master, slave, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		cmd.Env = append(os.Environ(), "HEZI_HOST=unix://"+socket, "DOCKER_CONFIG="+t.TempDir())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		slave.Close()
		if _, err := io.ReadFull(master, make([]byte, len("up"))); err != nil {
			t.Fatal(err)
		}
		master.Close()
		late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 129 {
			t.Errorf("hezi %s: %v, want exit code 129", args[0], cmd.ProcessState)
		}
		late.Stop()
	}
	if !e.running("box") {
		t.Error("the container has ended with the terminal")
	}
}

// TestKeeperThatDies cuts all connections of a container that runs on: a
// terminal is joined again, what was typed arrives, and the exit code is known;
// without a terminal hezi says how to join it.
func TestKeeperThatDies(t *testing.T) {
	socket, e := withEngine(t)
	h := hezi(t, socket, "run", "-it", "--name", "box", "busybox", "sh", "-c", "echo up; read a; echo got-$a; read b; exit $b")
	h.expect("up")
	e.sever("box")
	h.press("one\r")
	h.expect("got-one")
	e.sever("box")
	h.press("7\r")
	h.exits(7)

	h = hezi(t, socket, "run", "--name", "plain", "busybox", "sh", "-c", "echo up; sleep 100")
	h.expect("up")
	e.sever("plain")
	h.expect("it still runs; join it again with: hezi attach plain")
	h.exits(125)
}

func TestProgressOnATerminal(t *testing.T) {
	socket, _ := withEngine(t)
	h := hezi(t, socket, "pull", "new")
	h.exits(0)
	h.expect("0123456789ab: Pull complete")
	h.expect("docker.io/library/new:latest")
}

func TestArchivesAreNotWrittenToATerminal(t *testing.T) {
	socket, _ := withEngine(t)
	for _, command := range []string{"save", "export"} {
		h := hezi(t, socket, command, "busybox")
		h.exits(1)
		h.expect("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
}
