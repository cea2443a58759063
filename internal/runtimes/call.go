package runtimes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/plan"
)

// call is one command of a runtime.
type call struct {
	runtime *Runtime
	dir     string // the container's folder
	verb    string
	args    []string // the verb's options
	program string   // of the process that is made
}

// argv is the command line; what follows it stands after the options.
func (q *call) argv(log string, after ...string) []string {
	argv := append([]string{q.runtime.Path}, q.runtime.Args...)
	argv = append(argv, "--root", q.runtime.Root, "--log", log, "--log-format", "json", q.verb)
	if q.runtime.Systemd {
		argv = slices.Insert(argv, len(argv)-1, "--systemd-cgroup")
	}
	return append(append(argv, q.args...), after...)
}

// file makes one of the call's files.
func (q *call) file(kind string) (*os.File, error) {
	return os.CreateTemp(q.dir, q.verb+"-*."+kind)
}

// environment is what a runtime gets: nothing by which the service manager would
// take it, or its container, for the engine.
func environment() []string {
	var out []string
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC":
		default:
			out = append(out, kv)
		}
	}
	return out
}

// run has the runtime do what is no more than a command.
func (q *call) run(ctx context.Context, after ...string) error {
	log, err := q.file("log")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	words, err := q.file("err")
	if err != nil {
		return err
	}
	defer os.Remove(words.Name())
	defer words.Close()
	argv := q.argv(log.Name(), after...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", environment(), words, words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.New("it did not end in time, and was killed")
		}
		return q.failure(said(log.Name(), words), err)
	}
	return nil
}

// Bounds of what a runtime says.
const (
	maxLog   = 256 << 10
	maxWords = 4 << 10
)

// said is what a runtime says of its failure: the last error in its log, else what
// it has written to its standard error.
func said(log string, words io.Reader) string {
	text := ""
	if f, err := os.Open(log); err == nil {
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Size() > maxLog {
			_, _ = f.Seek(-maxLog, io.SeekEnd) // it is a file
		}
		b, _ := io.ReadAll(io.LimitReader(f, maxLog)) // as much as there is
		for line := range bytes.Lines(b) {
			var entry struct{ Level, Msg string }
			if json.Unmarshal(line, &entry) == nil && entry.Msg != "" && (entry.Level == "error" || entry.Level == "fatal") {
				text = entry.Msg
			}
		}
	}
	if text == "" && words != nil {
		if s, ok := words.(io.Seeker); ok {
			_, _ = s.Seek(0, io.SeekStart) // a pipe cannot
		}
		b, _ := io.ReadAll(io.LimitReader(words, maxWords))
		text = string(b)
	}
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, text))
	if len(text) > maxWords {
		text = text[:maxWords]
	}
	return strings.ToValidUTF8(text, "")
}

// failure is a step that failed, in Docker's words, and with the exit codes that
// Docker gives to what the runtime said.
func (q *call) failure(text string, err error) error {
	e := &box.Error{Step: q.verb, Subject: q.runtime.Name, ExitCode: 125}
	if text == "" { // it said nothing, or does not run: that is not the program's fault
		e.Message = fmt.Sprintf("OCI runtime %s failed: the runtime %s (%s): %s", q.verb, q.runtime.Name, q.runtime.Path, notFound(err))
		return e
	}
	if strings.HasPrefix(text, "Usage:") {
		text = fmt.Sprintf("the runtime %s answers with its usage: it does not know the command %s, or an option of it", q.runtime.Name, q.verb)
	}
	e.Message = fmt.Sprintf("OCI runtime %s failed: %s", q.verb, text)
	if q.verb != "create" && q.verb != "start" && q.verb != "exec" {
		return e
	}
	has := func(err unix.Errno) bool { return strings.Contains(strings.ToLower(text), err.Error()) }
	clue := "" // clients look for it, letter by letter
	switch {
	case has(unix.EACCES), has(unix.EISDIR):
		e.ExitCode, clue = 126, unix.EACCES.Error()
	case has(unix.ENOTDIR):
		e.ExitCode, clue = 127, unix.ENOENT.Error()
		e.Message += ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type"
	case strings.Contains(text, "executable file not found"):
		e.ExitCode = 127
	case has(unix.ENOENT):
		e.ExitCode, clue = 127, unix.ENOENT.Error()
	}
	if program := strings.Contains(text, "executable") || strings.Contains(text, "failed to load "); clue != "" && program && !strings.Contains(text, "exec: \"") { // crun's words are its own, and runsc's
		clue = fmt.Sprintf("exec: %q: %s", q.program, clue)
	}
	if !strings.Contains(e.Message, clue) {
		e.Message += ": " + clue
	}
	return e
}

// notFound is a failed command's error, without words that clients would take for
// the container's program.
func notFound(err error) string {
	if errors.Is(err, exec.ErrNotFound) {
		return "there is no such program in PATH: install it, or mend its path in daemon.json"
	}
	if errors.Is(err, os.ErrNotExist) {
		return "there is no such program: install it, or mend its path in daemon.json"
	}
	return plan.Reason(err)
}

// making is a call that makes a process.
type making struct {
	runtime *Runtime
	id, dir string
	verb    string
	args    []string
	stdio   box.Stdio
	process *box.Process
	lock    *os.File // the courier holds it too
}

// run has a courier call the runtime, and gives the process.
func (m *making) run(ctx context.Context) (*box.Proc, error) {
	q := &call{runtime: m.runtime, dir: m.dir, verb: m.verb, args: m.args, program: m.process.Args[0]}
	// Looked up here, so that the courier's failures are the runtime's own.
	if _, err := exec.LookPath(m.runtime.Path); err != nil {
		return nil, q.failure("", err)
	}
	log, err := q.file("log")
	if err != nil {
		return nil, err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	words, err := q.file("err")
	if err != nil {
		return nil, err
	}
	defer os.Remove(words.Name())
	defer words.Close()
	base := strings.TrimSuffix(log.Name(), ".log")
	pid := base + ".pid"
	defer os.Remove(pid)
	q.args = append(q.args, "--pid-file", pid)
	console := make(chan consoleResult, 1)
	taken := !m.process.Terminal
	defer func() {
		if !taken { // it may still come
			go func() { closeFile((<-console).master) }()
		}
	}()
	streams := m.stdio
	if m.process.Terminal {
		streams = box.Stdio{Stderr: words}
		l, err := listenConsole(m.dir, filepath.Base(base))
		if err != nil {
			taken = true
			return nil, err
		}
		defer l.close()
		q.args = append(q.args, "--console-socket", l.path)
		go func() { console <- l.receive() }()
	}
	if streams.Stderr == nil {
		streams.Stderr = words
	}
	c := &courier{pidFile: pid, argv: q.argv(log.Name(), m.id), stdio: streams, lock: m.lock}
	proc, err := c.run(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("it did not end in time, and was killed")
		}
		return nil, q.failure(said(log.Name(), wordsOf(streams.Stderr, words)), err)
	}
	if !m.process.Terminal {
		return proc, nil
	}
	select {
	case got := <-console:
		taken = true
		err, proc.Console = got.err, got.master
	case <-time.After(5 * time.Second): // it was to come before the runtime ended
		err = errors.New("it sent no terminal")
	}
	if err == nil {
		err = sized(proc.Console, m.process)
	}
	if err != nil {
		end(proc)
		return nil, q.failure("", err)
	}
	return proc, nil
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// wordsOf reads what a runtime wrote to a standard error that is the container's:
// the pipe is opened once more, for nobody reads it yet.
func wordsOf(stderr, words *os.File) io.Reader {
	if stderr == words {
		return words
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", rawFD(stderr)), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := make([]byte, maxWords)
	n, err := unix.Read(fd, b)
	if err != nil || n <= 0 {
		return nil
	}
	return bytes.NewReader(b[:n])
}
