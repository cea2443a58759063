package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newUnpause(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, isPaused)}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.each(ctx, args, func(ctx context.Context, name string) error {
			_, err := engine.ContainerUnpause(ctx, name, client.ContainerUnpauseOptions{})
			return err
		})
	})
	return cmd
}
