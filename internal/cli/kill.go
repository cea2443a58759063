package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newKill(a *App) *cobra.Command {
	var signal string
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, isRunning)}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.each(ctx, args, func(ctx context.Context, name string) error {
			_, err := engine.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: signal})
			return err
		})
	})
	return cmd
}
