package cli

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/term"
)

func newAttach(a *App) *cobra.Command {
	var noStdin, sigProxy bool
	var keys string
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER", Args: exactArgs(1), ValidArgsFunction: completeContainers(a, 1, isRunning)}
	f := cmd.Flags()
	f.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	f.BoolVar(&sigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	f.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
	cmd.RunE = a.run(func(ctx context.Context, _ *endpoint.Connection, args []string) error {
		keys, err := a.detachKeys(keys)
		if err != nil {
			return err
		}
		return a.attach(ctx, args[0], !noStdin, sigProxy, keys)
	})
	return cmd
}

// attach joins a container that runs, until it ends or the user detaches.
func (a *App) attach(ctx context.Context, name string, stdin, sigProxy bool, keys string) error {
	c, err := a.attachable(ctx, name)
	if err != nil {
		return err
	}
	s := session{id: c.ID, tty: c.Config.Tty, stdin: stdin && c.Config.OpenStdin, stdout: true, stderr: true, keys: keys}
	if err := a.CheckTTY(s.stdin, s.tty); err != nil {
		return err
	}
	s.proxy = sigProxy && !s.tty
	if s.proxy {
		defer a.forwardTo(ctx, a.Forward(), s.id)()
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait := a.engine.ContainerWait(ctx, s.id, client.ContainerWaitOptions{})
	if s.tty {
		s.ended = make(chan struct{})
	}
	conn, err := a.engine.ContainerAttach(ctx, s.id, s.attachOptions())
	if err != nil {
		return err
	}
	defer conn.Close()
	if s.tty && term.IsTerminal(a.Out) {
		// A size that changes makes the program draw its screen again.
		if rows, cols := term.Size(a.Out); rows > 0 {
			_, _ = a.engine.ContainerResize(ctx, s.id, client.ContainerResizeOptions{Height: rows + 1, Width: cols + 1}) // a wish
		}
		a.followSize(ctx, s.id)
	}
	err = a.end(s, wait, a.pump(ctx, s, conn.HijackedResponse), cancel)
	if errors.Is(err, term.ErrDetached) {
		return errEscaped
	}
	return err
}

// attachable finds a container whose streams can be joined.
func (a *App) attachable(ctx context.Context, name string) (*container.InspectResponse, error) {
	c, err := a.engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return nil, err
	}
	switch state := c.Container.State; {
	case !state.Running:
		return nil, errors.New("cannot attach to a stopped container, start it first")
	case state.Paused:
		return nil, errors.New("cannot attach to a paused container, unpause it first")
	case state.Restarting:
		return nil, errors.New("cannot attach to a restarting container, wait until it is running")
	}
	return &c.Container, nil
}
