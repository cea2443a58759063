package tiny

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// build compiles tiny.c with the flags of the Makefile's target embedded.
func build(t *testing.T) string {
	t.Helper()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, flags, ok := strings.Cut(string(makefile), "TINYFLAGS = ")
	if !ok {
		t.Fatal("the Makefile has no TINYFLAGS")
	}
	flags, _, _ = strings.Cut(flags, "\n")
	program := filepath.Join(t.TempDir(), "hezi-tiny")
	out, err := exec.Command("gcc", append(strings.Fields(flags), "-o", program, "tiny.c")...).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return program
}

func code(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

func TestExitCodes(t *testing.T) {
	tiny := build(t)
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"/bin/sh", "sh", "-c", "exit 0"}, 0},
		{[]string{"/bin/sh", "sh", "-c", "exit 7"}, 7},
		{[]string{"/bin/sh", "sh", "-c", "exit 255"}, 255},
		{[]string{"/bin/sh", "sh", "-c", "kill -9 $$"}, 137},
		{[]string{"/bin/sh", "sh", "-c", "kill -TERM $$"}, 143},
		{[]string{"/nonexistent/program", "x"}, 127},
		{[]string{"/etc/passwd", "x"}, 126},
		{[]string{"/bin/sh"}, 125}, // ARGV0 is missing
	} {
		if got := code(exec.Command(tiny, c.args...).Run()); got != c.want {
			t.Errorf("%q: exit code %d, want %d", c.args, got, c.want)
		}
	}
}

func TestArgumentsAndEnvironment(t *testing.T) {
	cmd := exec.Command(build(t), "/bin/bash", "name", "-c", `echo "$0 $1 $X"; ps -o args= -p $$; true`, "a", "b c")
	cmd.Env = []string{"X=y", "PATH=/usr/bin:/bin"}
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(out), "a b c y\nname -c") {
		t.Errorf("%v: %q", err, out)
	}
}

// TestForward sends every signal that a program can catch.
func TestForward(t *testing.T) {
	tiny := build(t)
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGTERM, unix.SIGCONT, unix.SIGWINCH, unix.SIGALRM, unix.SIGTSTP, unix.SIGPIPE, 34, 50, 64} {
		cmd := exec.Command(tiny, "/bin/bash", "bash", "-c", fmt.Sprintf("trap 'exit 42' %d; echo ready; for((;;)); do sleep .02; done", sig))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		if got := code(cmd.Wait()); got != 42 {
			t.Errorf("signal %d: exit code %d", sig, got)
		}
		timer.Stop()
	}
}

// TestReap makes it process 1 of a pid namespace, where orphans become its
// children, and looks for zombies.
func TestReap(t *testing.T) {
	script := `for i in 1 2 3 4 5 6 7 8; do (sleep 0.05 & ) ; done; sleep 0.4
echo $(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ") Z "); grep -c . /proc/1/comm; exit 3`
	cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", build(t), "/bin/sh", "sh", "-c", script)
	out, err := cmd.Output()
	if code(err) != 3 || string(out) != "0\n1\n" {
		t.Errorf("%v: %q (this test needs root)", err, out)
	}
}

// TestForeground gives it a terminal: the program's group must be in front,
// and a typed interrupt must reach it.
func TestForeground(t *testing.T) {
	tiny := build(t)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd := exec.Command(tiny, "/bin/bash", "bash", "-c", `trap 'exit 42' INT; echo front $(ps -o tpgid= -p $$) $$ done; for((;;)); do sleep .02; done`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	line, err := bufio.NewReader(master).ReadString('\n')
	f := strings.Fields(line)
	if err != nil || len(f) != 4 || f[1] != f[2] {
		t.Errorf("%v: %q: the program is not in the foreground", err, line)
	}
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if got := code(cmd.Wait()); got != 42 {
		t.Errorf("exit code %d after ^C", got)
	}
}

func TestArm64Compiles(t *testing.T) {
	const compiler = "aarch64-linux-gnu-gcc"
	if _, err := exec.LookPath(compiler); err != nil {
		t.Skip("no AArch64 cross compiler: apt-get install gcc-aarch64-linux-gnu")
	}
	program := filepath.Join(t.TempDir(), "hezi-tiny")
	out, err := exec.Command(compiler, "-Os", "-static", "-nostdlib", "-fno-stack-protector",
		"-fno-asynchronous-unwind-tables", "-Wall", "-Werror", "-o", program, "tiny.c").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
