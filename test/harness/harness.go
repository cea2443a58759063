// Package harness starts real engines for tests: hezid with roots of its own,
// driven by hezi and by Docker's client, beside a real registry. It counts
// what the kernel holds so that a test can say that nothing was left behind.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Engine is a running hezid of a test.
type Engine struct {
	Dir  string // everything of it: data/, run/, log
	Host string // unix:///.../run/hezi.sock
	bin  string
	// daemons is where hezid is; bin unless UseBin said otherwise.
	daemons string
	args    []string
	cmd     *exec.Cmd
	exited  chan struct{}
}

// Bin is the folder of the programs under test: bin/, or HEZI_TEST_BIN.
func Bin() string {
	if d := os.Getenv("HEZI_TEST_BIN"); d != "" {
		return d
	}
	return filepath.Join(Repo(), "bin")
}

// Repo is the top of the source tree.
func Repo() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Start runs an engine with roots of its own and ends it, and every container
// of it, when the test ends.
func Start(t testing.TB, args ...string) *Engine {
	t.Helper()
	e, err := New(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("hezid's log:\n%s", tail(filepath.Join(e.Dir, "hezid.log"), 100))
			t.Logf("the keeper's log:\n%s", tail(filepath.Join(e.Dir, "run", "keeper", "keeper.log"), 50))
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// New is Start without a test, for TestMain and the benchmarks.
func New(args ...string) (*Engine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("these tests start a real engine: run them as root")
	}
	dir, err := os.MkdirTemp("", "hezi-test-")
	if err != nil {
		return nil, err
	}
	e := &Engine{Dir: dir, Host: "unix://" + filepath.Join(dir, "run", "hezi.sock"), bin: Bin(), daemons: Bin(), args: args}
	if err := e.prepare(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := e.Up(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// prepare mounts a tmpfs as exec root, as /run is on a real machine.
func (e *Engine) prepare() error {
	if _, err := os.Stat(filepath.Join(e.bin, "hezid")); err != nil {
		return fmt.Errorf("no engine to test: %w: run make build first", err)
	}
	run := filepath.Join(e.Dir, "run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", run, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", run, err)
	}
	cfg := filepath.Join(e.Dir, "daemon.json")
	if _, err := os.Stat(cfg); err == nil {
		return nil
	}
	return os.WriteFile(cfg, []byte("{}\n"), 0o644)
}

// Up starts hezid (again) and waits until it answers.
func (e *Engine) Up(extra ...string) error {
	log, err := os.OpenFile(filepath.Join(e.Dir, "hezid.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{
		"--config-file", filepath.Join(e.Dir, "daemon.json"),
		"--data-root", filepath.Join(e.Dir, "data"),
		"--exec-root", filepath.Join(e.Dir, "run"),
		"--pidfile", filepath.Join(e.Dir, "run", "hezi.pid"),
		"-H", e.Host, "-D",
	}, e.args...)
	cmd := exec.Command(filepath.Join(e.daemons, "hezid"), append(args, extra...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	e.cmd, e.exited = cmd, exited
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		if r := e.Hezi("version", "--format", "{{.Server.Version}}"); r.Code == 0 {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("hezid ended at start: %s", tail(log.Name(), 20))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("hezid did not answer for a minute: %s", tail(log.Name(), 40))
}

// Kill ends hezid with SIGKILL; its containers run on.
func (e *Engine) Kill() { e.signal(syscall.SIGKILL) }

// Down stops hezid as a service manager does; its containers run on.
func (e *Engine) Down() { e.signal(syscall.SIGTERM) }

func (e *Engine) signal(sig syscall.Signal) {
	if e.cmd == nil || e.cmd.Process == nil {
		return
	}
	_ = e.cmd.Process.Signal(sig)
	<-e.exited
}

// UseBin takes hezid and hezi-keeper from another folder at the next Up, as an
// upgrade does; the client stays.
func (e *Engine) UseBin(dir string) { e.daemons = dir }

// PID of hezid.
func (e *Engine) PID() int { return e.cmd.Process.Pid }

// Keeper finds the pids of the engine's keeper and of its holder by their
// command lines and exec root. The relay has that too, and so has a child of the
// keeper that has not yet called execve: both are passed over.
func (e *Engine) Keeper() (keeper, holder int) {
	keepers := map[int]bool{}
	for _, pid := range pids() {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !bytes.Contains(cmdline, []byte(filepath.Join(e.Dir, "run"))) {
			continue
		}
		words := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		if filepath.Base(words[0]) != "hezi-keeper" {
			continue
		}
		switch words[min(1, len(words)-1)] {
		case "hold":
			holder = pid
		case "relay":
		default:
			keepers[pid] = true
		}
	}
	for pid := range keepers {
		if !keepers[parent(pid)] {
			keeper = pid
		}
	}
	return keeper, holder
}

// Close removes every container, ends the engine with its keeper, and removes
// its folder.
func (e *Engine) Close() error {
	if e.cmd != nil {
		select {
		case <-e.exited:
			if _, holder := e.Keeper(); holder != 0 {
				_ = e.Up()
			}
		default:
		}
		if ids := strings.Fields(e.Hezi("ps", "-aq").Out); len(ids) > 0 {
			e.Hezi(append([]string{"rm", "-f", "-v"}, ids...)...)
		}
		e.Down()
	}
	for range 3 {
		keeper, holder := e.Keeper()
		if keeper == 0 && holder == 0 {
			break
		}
		// The holder would restart the keeper, and the keeper get itself another holder.
		for _, k := range []struct {
			pid int
			sig syscall.Signal
		}{{keeper, syscall.SIGSTOP}, {holder, syscall.SIGKILL}, {keeper, syscall.SIGKILL}} {
			if k.pid != 0 {
				_ = syscall.Kill(k.pid, k.sig)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	unmountBelow(e.Dir)

	var err error
	for range 20 { // what the keeper's death lets go of takes a moment
		if err = os.RemoveAll(e.Dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
		unmountBelow(e.Dir)
	}
	return err
}

// Result of a program.
type Result struct {
	Out, Err string
	Code     int
}

// Hezi runs the client against the engine.
func (e *Engine) Hezi(args ...string) Result { return e.run(filepath.Join(e.bin, "hezi"), nil, args) }

// HeziIn is Hezi with a standard input.
func (e *Engine) HeziIn(stdin []byte, args ...string) Result {
	return e.run(filepath.Join(e.bin, "hezi"), stdin, args)
}

// Command is the client's command, not yet started.
func (e *Engine) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(e.bin, "hezi"), args...)
	cmd.Env = e.Env()
	return cmd
}

// Docker is a command of Docker's own client, not yet started.
func (e *Engine) Docker(args ...string) *exec.Cmd {
	cmd := exec.Command("docker", args...)
	cmd.Env = e.Env()
	return cmd
}

// Env makes both clients talk to the engine.
func (e *Engine) Env() []string {
	return append(os.Environ(), "DOCKER_HOST="+e.Host, "HEZI_HOST="+e.Host,
		"DOCKER_CONFIG="+filepath.Join(e.Dir, "docker-config"), "DOCKER_CLI_HINTS=false")
}

func (e *Engine) run(program string, stdin []byte, args []string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = e.Env()
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	r := Result{Out: out.String(), Err: errOut.String(), Code: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		r.Err += fmt.Sprintf("\n%s %s did not end within two minutes", filepath.Base(program), strings.Join(args, " "))
	} else if err != nil && r.Code == -1 {
		r.Err += "\n" + err.Error()
	}
	return r
}

// Must runs the client and fails the test when it fails; it returns what it printed.
func (e *Engine) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := e.Hezi(args...)
	if r.Code != 0 {
		t.Fatalf("hezi %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return strings.TrimRight(r.Out, "\n")
}

func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// parent of a process, 0 when it is gone.
func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // state, ppid (proc_pid_stat(5))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

func pids() []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}
