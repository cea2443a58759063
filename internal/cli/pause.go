package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newPause(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, isRunning)}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.each(ctx, args, func(ctx context.Context, name string) error {
			_, err := engine.ContainerPause(ctx, name, client.ContainerPauseOptions{})
			return err
		})
	})
	return cmd
}
