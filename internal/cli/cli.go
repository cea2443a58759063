// Package cli is the command line `hezi`: Docker's commands, flags, output,
// templates and exit codes, spoken to any engine with the Docker Engine API.
//
// A command is one file: its flags, one call, what it prints. The tree of all
// commands is in tree.go; a command is built only when the command line names
// it, since hezi starts in milliseconds.
//
// Errors are printed once, in Main. Exit codes are Docker's: 1, or 125 for a
// wrong flag and for run when the engine refuses, 126 and 127 when the program
// cannot be started, else the program's own; 128+n when signal n ends hezi.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/ahead"
	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/term"
	"hezi/internal/version"
)

// App is one call of hezi. Commands use what it opens on demand.
type App struct {
	*term.Streams

	flags   endpoint.Flags
	debug   bool
	builder bool // build every command, as completion and documentation need

	catchSignals func() // from now on they end the context instead of hezi

	timeline *timeline // of `debug timeline`; nil: nobody asked

	config *configfile.ConfigFile
	engine *endpoint.Connection
	osType string // of the engine, known after Engine
}

// Main runs the command line and returns the exit code.
func Main(args []string) (code int) {
	streams := term.Standard()
	defer func() {
		if r := recover(); r != nil {
			streams.Restore()
			panic(r)
		}
	}()
	app := &App{Streams: streams}
	ctx, stop := app.untilSignal(context.Background())
	defer stop()
	root := app.root()
	words, err := parseGlobals(root, args)
	if err == nil {
		app.addCommands(root, words)
		root.SetArgs(words)
		err = root.ExecuteContext(ctx)
	}
	streams.Restore()
	if app.engine != nil {
		err = app.engine.Explain(err)
		_ = app.engine.Close() // the process ends
	}
	return report(ctx, streams.Err, err)
}

// errSignal is the cause of a context that a signal ended.
type errSignal struct{ sig syscall.Signal }

func (e errSignal) Error() string { return "got signal " + e.sig.String() }

// Is makes what fails by the signal a cancelled call.
func (errSignal) Is(target error) bool { return target == context.Canceled }

// signalGrace is how long hezi leaves signals to the kernel, which ends it as
// they ask. Taking them costs more than the rest of a short command, and in
// its first moment hezi has nothing to give back; what has calls catchSignals.
const signalGrace = 50 * time.Millisecond

// untilSignal ends the context at the first signal that asks hezi to end. The
// third one ends the process at once, should a command not listen.
func (a *App) untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := make(chan os.Signal, 3)
	a.catchSignals = sync.OnceFunc(func() {
		signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		go func() {
			for n := 1; ; n++ {
				sig := <-c
				cancel(errSignal{sig.(syscall.Signal)})
				if n == 3 {
					a.Restore()
					fmt.Fprintln(os.Stderr, "\ngot 3 SIGTERM/SIGINTs, forcefully exiting")
					os.Exit(1)
				}
			}
		}()
	})
	a.BeforeRaw = a.catchSignals
	if ahead.Pending() { // its time is over
		a.catchSignals()
	}
	timer := time.AfterFunc(signalGrace, a.catchSignals)
	return ctx, func() {
		timer.Stop()
		signal.Stop(c)
		cancel(nil)
	}
}

// report prints an error and chooses the exit code.
func report(ctx context.Context, w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var status *exitError
	if errors.As(err, &status) {
		if text := status.Error(); text != "" {
			fmt.Fprintln(w, text)
		}
		return status.code
	}
	var sig errSignal
	if errors.As(context.Cause(ctx), &sig) && errors.Is(err, context.Canceled) {
		return 128 + int(sig.sig)
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(w, text)
	}
	return 1
}

// exitError is an error with its exit code; err is nil when there is nothing
// to print.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exit ends hezi with a code and without a word.
func exit(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// Config is the client's configuration, empty where there is none.
func (a *App) Config() (*configfile.ConfigFile, error) {
	if a.config == nil {
		cfg, err := endpoint.LoadConfig(a.flags.ConfigDir)
		if err != nil {
			return nil, err
		}
		a.config = cfg
	}
	return a.config, nil
}

// Engine connects to the engine and agrees on the API's version.
func (a *App) Engine(ctx context.Context) (*endpoint.Connection, error) {
	if a.osType != "" {
		return a.engine, nil
	}
	if a.engine == nil {
		c, err := a.connect()
		if err != nil {
			return nil, err
		}
		a.engine = c
	}
	c := a.engine
	ping, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return nil, c.Explain(err)
	}
	a.osType = cmp.Or(ping.OSType, "linux")
	return c, nil
}

// connect finds the engine without asking it anything.
func (a *App) connect() (*endpoint.Connection, error) {
	cfg, err := a.Config()
	if err != nil {
		return nil, err
	}
	ep, err := a.flags.Resolve(cfg)
	if err != nil {
		return nil, err
	}
	return ep.Connect(userAgent(), a.timeline.asked(cfg.HTTPHeaders), a.timeline.hear()...)
}

func userAgent() string {
	return fmt.Sprintf("Hezi-Client/%s (%s)", version.Version, runtime.GOOS)
}

// contextName is the current context's name.
func (a *App) contextName() string {
	cfg, err := a.Config()
	if err != nil {
		return endpoint.DefaultContext
	}
	name, err := a.flags.ContextName(cfg)
	if err != nil {
		return endpoint.DefaultContext
	}
	return name
}

// detachKeys are those of the flag, or of the configuration.
func (a *App) detachKeys(flag string) (string, error) {
	if flag != "" {
		return flag, term.CheckDetachKeys(flag)
	}
	cfg, err := a.Config()
	if err != nil {
		return "", err
	}
	return cfg.DetachKeys, term.CheckDetachKeys(cfg.DetachKeys)
}

// println writes lines of a result to standard output.
func (a *App) println(v ...any) { fmt.Fprintln(a.Out, v...) }

// warn writes to standard error.
func (a *App) warn(v ...any) { fmt.Fprintln(a.Err, v...) }

// run is the body of most commands: an engine and the arguments.
func (a *App) run(f func(ctx context.Context, engine *endpoint.Connection, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		engine, err := a.Engine(cmd.Context())
		if err != nil {
			return err
		}
		return f(cmd.Context(), engine, args)
	}
}
