package cli

import (
	"context"
	"io"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newExport(a *App) *cobra.Command {
	var path string
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER", Args: exactArgs(1), ValidArgsFunction: completeContainers(a, 1, nil)}
	cmd.Flags().StringVarP(&path, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return output(ctx, a, path, "export container", func() (io.ReadCloser, error) {
			return engine.ContainerExport(ctx, args[0], client.ContainerExportOptions{})
		})
	})
	return cmd
}
