package cli

import (
	"context"
	"fmt"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newRename(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER NEW_NAME", Args: exactArgs(2), ValidArgsFunction: completeContainers(a, 1, nil)}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if _, err := engine.ContainerRename(ctx, args[0], client.ContainerRenameOptions{NewName: args[1]}); err != nil {
			return fmt.Errorf("failed to rename container: %w", err)
		}
		return nil
	})
	return cmd
}
