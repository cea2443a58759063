package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/term"
)

func newExec(a *App) *cobra.Command {
	e := client.ExecCreateOptions{}
	env, envFile := opts.NewListOpts(opts.ValidateEnv), opts.NewListOpts(nil)
	var detach, stdin bool
	var own endpoint.ExecOwn
	var keys string
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER COMMAND [ARG...]", Args: minArgs(2), ValidArgsFunction: completeContainers(a, 1, isRunning)}
	f := cmd.Flags()
	f.SetInterspersed(false) // after the container everything is the command's
	f.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.BoolVarP(&stdin, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVarP(&e.TTY, "tty", "t", false, "Allocate a pseudo-TTY")
	f.BoolVarP(&detach, "detach", "d", false, "Detached mode: run command in the background")
	f.StringVarP(&e.User, "user", "u", "", `Username or UID (format: "<name|uid>[:<group|gid>]")`)
	f.BoolVar(&e.Privileged, "privileged", false, "Give extended privileges to the command")
	f.VarP(&env, "env", "e", "Set environment variables")
	f.Var(&envFile, "env-file", "Read in a file of environment variables")
	f.StringVarP(&e.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	f.BoolVar(&own.KillOnDisconnect, "kill-on-disconnect", false, "Kill the command, with all processes that it started, when this client goes")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ctx := cmd.Context()
		if own.KillOnDisconnect && detach {
			return errors.New("conflicting options: --detach and --kill-on-disconnect: a detached command has no client")
		}
		defer func() { err = meantExecs(args, err) }()
		if e.Env, err = opts.ReadKVEnvStrings(envFile.GetSlice(), env.GetSlice()); err != nil {
			return err
		}
		if e.DetachKeys, err = a.detachKeys(keys); err != nil {
			return err
		}
		e.Cmd = args[1:]
		e.AttachStdin, e.AttachStdout, e.AttachStderr = stdin && !detach, !detach, !detach
		if !detach && !e.TTY {
			if done, err := a.execAtOnce(ctx, args[0], e, own); done {
				return err
			}
		}
		engine, err := a.Engine(ctx)
		if err != nil {
			return err
		}
		if err := a.CheckTTY(e.AttachStdin, e.TTY); err != nil {
			// That the container does not exist is the better answer.
			if _, missing := engine.ContainerInspect(ctx, args[0], client.ContainerInspectOptions{}); missing != nil {
				return missing
			}
			return err
		}
		if e.TTY {
			rows, cols := term.Size(a.Out)
			e.ConsoleSize = client.ConsoleSize{Height: rows, Width: cols}
		}
		id, err := engine.ExecCreate(ctx, args[0], e, own)
		if errors.Is(err, endpoint.ErrNotHezi) {
			return fmt.Errorf("--kill-on-disconnect: %w: leave it out", err)
		}
		if err != nil {
			return err
		}
		if detach {
			_, err := engine.ExecStart(ctx, id, client.ExecStartOptions{Detach: true, TTY: e.TTY, ConsoleSize: e.ConsoleSize})
			return err
		}
		return a.exec(ctx, id, e)
	}
	return cmd
}

// meantExecs tells who wrote `exec ls` and has no container of that name what
// lists execs.
func meantExecs(args []string, err error) error {
	if errdefs.IsNotFound(err) && len(args) > 1 && (args[0] == "ls" || args[0] == "kill") {
		return fmt.Errorf("%w\nThe first argument is a container; for the list of execs write: hezi execs ls %s; to end one: hezi execs kill EXEC", err, args[1])
	}
	return err
}

// execAtOnce makes, starts and attaches to an exec by one request, which Hezi
// understands. Any other answer, a refusal too, is left to the usual way, which
// asks again: done is false, and no process was started. Without an answer
// nobody asks again, or the command might run twice.
func (a *App) execAtOnce(ctx context.Context, container string, e client.ExecCreateOptions, own endpoint.ExecOwn) (done bool, err error) {
	conn, err := a.connect()
	if err != nil {
		return true, err
	}
	stream, id, err := conn.ExecRun(ctx, container, e, own)
	if err != nil {
		return true, fmt.Errorf("%w\nThe command may have been started; hezi top %s shows what runs there", err, container)
	}
	if id == "" {
		_ = conn.Close() // the usual way connects again
		return false, nil
	}
	defer stream.Close()
	a.engine = conn
	at := term.Attachment{Conn: stream, Out: a.Out, Err: a.Err}
	if e.AttachStdin {
		at.In = a.In
	}
	if err := a.Pump(ctx, &at); err != nil {
		return true, err
	}
	if at.Exit != nil {
		return true, exit(*at.Exit)
	}
	if _, err := a.Engine(ctx); err != nil { // the keeper was replaced by an older one meanwhile, or is gone
		return true, err
	}
	return true, a.exitOfExec(ctx, id)
}

// errEscaped is how Docker's attach and exec end after the detach keys; its run and start end with 0.
var errEscaped = errors.New("read escape sequence")

// exec starts the process with the streams attached and exits as it does.
func (a *App) exec(ctx context.Context, id string, e client.ExecCreateOptions) error {
	conn, err := a.engine.ExecAttach(ctx, id, client.ExecAttachOptions{TTY: e.TTY, ConsoleSize: e.ConsoleSize})
	if err != nil {
		return a.refusedExec(ctx, id, err)
	}
	defer conn.Close()
	streams, cancel := context.WithCancel(ctx)
	defer cancel()
	if e.TTY && term.IsTerminal(a.Out) {
		term.MonitorSize(streams, a.Out, func(ctx context.Context, rows, cols uint) error {
			_, err := a.engine.ExecResize(ctx, id, client.ExecResizeOptions{Height: rows, Width: cols})
			return err
		}, func() { a.warn("failed to resize tty, using default size") })
	}
	s := session{tty: e.TTY, stdin: e.AttachStdin, stdout: true, stderr: true, keys: e.DetachKeys}
	err = <-a.pump(streams, s, conn.HijackedResponse)
	if errors.Is(err, term.ErrDetached) {
		return errEscaped
	}
	if errors.Is(err, term.ErrHungUp) {
		return exit(128 + int(syscall.SIGHUP))
	}
	if err != nil {
		return err
	}
	return a.exitOfExec(ctx, id)
}

// exitOfExec asks for the exit code, which an engine may know a moment after
// the streams have ended. They also end when the keeper is killed, and when a
// program closes them.
func (a *App) exitOfExec(ctx context.Context, id string) error {
	for try := 1; ; try++ {
		res, err := a.engine.ExecInspect(ctx, id, client.ExecInspectOptions{})
		if err != nil {
			return err
		}
		if !res.Running {
			return exit(res.ExitCode)
		}
		if try == 20 { // after a second
			a.warn("The streams of the command have ended, but it still runs: waiting for its end")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Duration(try)*5*time.Millisecond, time.Second)):
		}
	}
}

// refusedExec adds the exit code where the engine answered the start itself
// with an error: 126 and 127 are then known to inspect.
func (a *App) refusedExec(ctx context.Context, id string, err error) error {
	res, inspectErr := a.engine.ExecInspect(ctx, id, client.ExecInspectOptions{})
	if inspectErr == nil && !res.Running && (res.ExitCode == 126 || res.ExitCode == 127) {
		return &exitError{code: res.ExitCode, err: err}
	}
	return err
}
