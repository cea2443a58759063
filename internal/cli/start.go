package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newStart(a *App) *cobra.Command {
	var attach, stdin bool
	var keys, checkpoint, checkpointDir string
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, isStopped)}
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	f.BoolVarP(&stdin, "interactive", "i", false, "Attach container's STDIN")
	f.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.StringVar(&checkpoint, "checkpoint", "", "Restore from this checkpoint")
	f.StringVar(&checkpointDir, "checkpoint-dir", "", "Use a custom checkpoint storage directory")
	cmd.RunE = a.run(func(ctx context.Context, _ *endpoint.Connection, args []string) error {
		options := client.ContainerStartOptions{CheckpointID: checkpoint, CheckpointDir: checkpointDir}
		switch {
		case attach || stdin:
			if len(args) > 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			keys, err := a.detachKeys(keys)
			if err != nil {
				return err
			}
			return a.startOne(ctx, args[0], stdin, keys, options)
		case checkpoint != "" && len(args) > 1:
			return errors.New("you cannot restore multiple containers at once")
		}
		return a.startAll(ctx, args, options)
	})
	return cmd
}

// startOne starts a container that exists with the streams attached.
func (a *App) startOne(ctx context.Context, name string, stdin bool, keys string, options client.ContainerStartOptions) error {
	c, err := a.engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	s := session{
		id: c.Container.ID, tty: c.Container.Config.Tty, keys: keys,
		stdin: stdin && c.Container.Config.OpenStdin, stdout: true, stderr: true,
		removed: c.Container.HostConfig.AutoRemove, start: options, proxy: !c.Container.Config.Tty,
	}
	if s.proxy {
		defer a.forwardTo(ctx, a.Forward(), s.id)()
	}
	return a.startAttached(ctx, s)
}

func (a *App) startAll(ctx context.Context, names []string, options client.ContainerStartOptions) error {
	var failed []string
	for _, name := range names {
		if _, err := a.engine.ContainerStart(ctx, name, options); err != nil {
			a.warn(a.engine.Explain(err))
			failed = append(failed, name)
			continue
		}
		a.println(name)
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed to start containers: %s", strings.Join(failed, ", "))
	}
	return nil
}
