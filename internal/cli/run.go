package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	apiversions "github.com/moby/moby/client/pkg/versions"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/request"
	"hezi/internal/cli/term"
)

func newRun(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "[OPTIONS] IMAGE [COMMAND] [ARG...]", Args: minArgs(1), ValidArgsFunction: completeImages(a, 1)}
	r := &running{creation: newCreation("run", cmd)}
	f := cmd.Flags()
	f.BoolVarP(&r.detach, "detach", "d", false, "Run container in background and print container ID")
	f.BoolVar(&r.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	f.StringVar(&r.keys, "detach-keys", "", "Override the key sequence for detaching a container")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := r.takeArgs(cmd.Flags(), args); err != nil {
			return err
		}
		if _, err := a.Engine(cmd.Context()); err != nil {
			return r.refuse(a, err)
		}
		a.timeline.mark("connect", "the engine is found and the API's version agreed on")
		req, err := a.request(r.creation)
		if err != nil {
			return err
		}
		return a.runContainer(cmd.Context(), r, req)
	}
	return cmd
}

// running is a call of run.
type running struct {
	*creation
	detach   bool
	sigProxy bool
	keys     string
}

// runContainer creates, attaches, waits and starts, in this order: nothing of
// the output is missed, and no exit.
func (a *App) runContainer(ctx context.Context, r *running, req *request.Container) error {
	config := req.Config
	if r.detach {
		if r.options.Attached() {
			return errors.New("conflicting options: cannot specify both --attach and --detach")
		}
		config.AttachStdin, config.AttachStdout, config.AttachStderr, config.StdinOnce = false, false, false, false
	} else if err := a.CheckTTY(config.AttachStdin, config.Tty); err != nil {
		return err
	}
	// Before API 1.25 (old engines, or DOCKER_API_VERSION) --rm is the client's work.
	byHand := r.options.Remove() && apiversions.LessThan(a.engine.ClientVersion(), "1.25")
	if byHand && r.detach {
		return fmt.Errorf("--rm together with --detach needs API version 1.25, and %s is spoken: leave one of them out, or unset DOCKER_API_VERSION", a.engine.ClientVersion())
	}
	keys, err := a.detachKeys(r.keys)
	if err != nil {
		return err
	}
	attach := config.AttachStdin || config.AttachStdout || config.AttachStderr
	var signals *term.Forwarder
	if attach && r.sigProxy {
		signals = a.Forward()
	}
	id, err := a.create(ctx, r.creation, req)
	if err != nil {
		return r.refuse(a, err)
	}
	a.timeline.mark("create", "the container is made")
	if !attach {
		a.println(id) // before the start: a container that does not start is there too
		if _, err := a.engine.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			return r.refuse(a, err)
		}
		a.timeline.mark("start", "the container is started")
		return nil
	}
	if signals != nil {
		defer a.forwardTo(ctx, signals, id)()
	}
	s := session{id: id, tty: config.Tty, stdin: config.AttachStdin, stdout: config.AttachStdout, stderr: config.AttachStderr, keys: keys, removed: r.options.Remove() && !byHand, proxy: r.sigProxy}
	err = a.startAttached(ctx, s)
	if byHand {
		_, gone := a.engine.ContainerRemove(context.WithoutCancel(ctx), id, client.ContainerRemoveOptions{RemoveVolumes: true})
		if gone != nil && !errdefs.IsConflict(gone) { // it still runs: the user has detached
			a.warn(gone)
		}
	}
	var failed *startError
	if errors.As(err, &failed) {
		return r.refuse(a, failed.err)
	}
	return err
}

// refuse chooses the exit code of what the engine said: 127 for a program that
// is not there, 126 for one that cannot be executed, else 125.
func (r *running) refuse(a *App, err error) error {
	var status *exitError
	if errors.As(err, &status) || errors.Is(err, context.Canceled) {
		return err
	}
	if a.engine != nil {
		err = a.engine.Explain(err)
	}
	if endpoint.IsUnreachable(err) {
		return &exitError{code: 125, err: fmt.Errorf("hezi: %w", err)}
	}
	text := err.Error()
	code := 125
	switch program := strings.Contains(text, `exec: "`) || strings.Contains(text, "exec /"); { // or a file of the engine is meant
	case strings.Contains(text, "executable file not found"), program && strings.Contains(text, syscall.ENOENT.Error()):
		code = 127
	case program && (strings.Contains(text, syscall.EACCES.Error()) || strings.Contains(text, syscall.EISDIR.Error()) || strings.Contains(text, syscall.ENOEXEC.Error())):
		code = 126
	}
	if args := r.options.Args; code == 127 && len(args) > 0 && strings.HasPrefix(args[0], "-") && !strings.Contains(text, "go before the image") {
		err = fmt.Errorf("%w\n%s stands after the image, where everything is the program's: options go before the image, as in: hezi run %s %s", err, args[0], strings.Join(args, " "), r.options.Image)
	}
	return &exitError{code: code, err: withHelp(err, "run")}
}

// session is a container that is started or already runs, with this process's
// streams attached.
type session struct {
	id                    string
	tty                   bool
	stdin, stdout, stderr bool
	keys                  string
	removed               bool                    // wait for its removal, not only for its end
	end                   container.WaitCondition // of a wait that begins while it runs
	proxy                 bool                    // signals go to the container and do not end hezi
	start                 client.ContainerStartOptions
	ended                 chan struct{} // of a container with a terminal: closed once its end is known
}

func (s session) attachOptions() client.ContainerAttachOptions {
	return client.ContainerAttachOptions{Stream: true, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, DetachKeys: s.keys}
}

// startError is an error of the start itself.
type startError struct{ err error }

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// startAttached attaches, waits, starts, and pumps until the end, whose exit
// code is hezi's.
func (a *App) startAttached(ctx context.Context, s session) error {
	if s.proxy {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	condition := container.WaitConditionNextExit
	if s.removed {
		condition, s.end = container.WaitConditionRemoved, container.WaitConditionRemoved
	}
	waiting := make(chan client.ContainerWaitResult, 1)
	go func() {
		waiting <- a.engine.ContainerWait(ctx, s.id, client.ContainerWaitOptions{Condition: condition})
	}()
	if s.tty {
		s.ended = make(chan struct{})
	}
	conn, err := a.engine.ContainerAttach(ctx, s.id, s.attachOptions())
	wait := <-waiting // accepted by the engine before the start
	if err != nil {
		return &startError{err}
	}
	defer conn.Close()
	a.timeline.mark("attach", "its streams and the wait for its end are accepted")
	pumped := a.pump(ctx, s, conn.HijackedResponse)

	if _, err := a.engine.ContainerStart(ctx, s.id, s.start); err != nil {
		cancel()
		<-pumped // gives the terminal back
		return &startError{err}
	}
	a.timeline.mark("start", "the container is started")
	if s.tty && term.IsTerminal(a.Out) {
		a.followSize(ctx, s.id)
	}
	err = a.end(s, wait, pumped, cancel)
	if errors.Is(err, term.ErrDetached) {
		return nil
	}
	return err
}

// pump runs the streams in the background.
func (a *App) pump(ctx context.Context, s session, conn client.HijackedResponse) <-chan error {
	if s.ended != nil {
		conn = newSteadyConn(conn, func() *client.HijackedResponse { return s.rejoin(ctx, a) })
	}
	at := term.Attachment{Conn: conn, TTY: s.tty, DetachKeys: s.keys}
	if s.stdin {
		at.In = a.In
	}
	if s.stdout || s.tty && s.stderr {
		at.Out = a.Out
	}
	if s.stderr && !s.tty {
		at.Err = a.Err
	}
	pumped := make(chan error, 1)
	go func() { pumped <- a.Pump(ctx, &at) }()
	return pumped
}

// end waits for the streams and for the exit code; the user may detach (term.ErrDetached).
func (a *App) end(s session, wait client.ContainerWaitResult, pumped <-chan error, cancel func()) error {
	exited := make(chan error, 1)
	go func() {
		err := s.exitOf(a, wait)
		if s.ended != nil {
			close(s.ended)
		}
		exited <- err
	}()
	select {
	case err := <-pumped:
		if errors.Is(err, term.ErrHungUp) {
			return exit(128 + int(syscall.SIGHUP))
		}
		if err != nil {
			return err
		}
		return <-exited
	case err := <-exited:
		if !s.stdout && !s.stderr {
			cancel() // only stdin is pumped, which does not end by itself
		}
		<-pumped // the rest of the output; the exit code is known
		return err
	}
}

// exitOf is the exit code of a wait.
func (s session) exitOf(a *App, wait client.ContainerWaitResult) error {
	select {
	case res := <-wait.Result:
		if res.Error != nil && res.Error.Message != "" {
			return &exitError{code: 125, err: errors.New("Error waiting for container: " + res.Error.Message)}
		}
		return exit(int(res.StatusCode))
	case err := <-wait.Error:
		if errors.Is(err, context.Canceled) {
			return err
		}
		for _, lost := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
			if errors.Is(err, lost) {
				return s.afterLoss(a, err)
			}
		}
		return &exitError{code: 125, err: fmt.Errorf("error waiting for container: %w", err)}
	}
}

// afterLoss is the end of a session whose connections were cut, by the end of
// a remote engine or of the keeper: the exit code if there is one, else how to
// join the container again.
func (s session) afterLoss(a *App, lost error) error {
	fail := func(format string, v ...any) error {
		return &exitError{code: 125, err: fmt.Errorf("the connection to the container was lost (%w): "+format, append([]any{lost}, v...)...)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		c, err := a.engine.ContainerInspect(ctx, s.id, client.ContainerInspectOptions{})
		switch {
		case err == nil && c.Container.State.Running && s.tty: // which attaches again
			return s.exitOf(a, a.engine.ContainerWait(context.Background(), s.id, client.ContainerWaitOptions{Condition: s.end}))
		case err == nil && c.Container.State.Running:
			return fail("it still runs; join it again with: hezi attach %s", strings.TrimPrefix(c.Container.Name, "/"))
		case err == nil:
			a.warn(fail("it has ended; its last output is in: hezi logs " + strings.TrimPrefix(c.Container.Name, "/")))
			return exit(c.Container.State.ExitCode)
		case errdefs.IsNotFound(err):
			return fail("it is gone, and with it its exit code")
		case ctx.Err() != nil:
			return fail("%w", a.engine.Explain(err))
		}
		time.Sleep(100 * time.Millisecond) // an engine that is restarted is back in a second
	}
}

// forwardTo passes signals on to the container until the returned func runs.
func (a *App) forwardTo(ctx context.Context, signals *term.Forwarder, id string) (stop func()) {
	ctx = context.WithoutCancel(ctx)
	return signals.To(func(name string) {
		_, _ = a.engine.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: name}) // it may just have ended
	})
}

// followSize keeps the container's terminal as large as ours.
func (a *App) followSize(ctx context.Context, id string) {
	term.MonitorSize(ctx, a.Out, func(ctx context.Context, rows, cols uint) error {
		_, err := a.engine.ContainerResize(ctx, id, client.ContainerResizeOptions{Height: rows, Width: cols})
		return err
	}, func() { a.warn("failed to resize tty, using default size") })
}
