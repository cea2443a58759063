package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newTag(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Args: exactArgs(2), ValidArgsFunction: completeImages(a, 2)}
	cmd.Flags().SetInterspersed(false)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		_, err := engine.ImageTag(ctx, client.ImageTagOptions{Source: args[0], Target: args[1]})
		return err
	})
	return cmd
}
