package cli

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

// newSystemStop stops every container, each with its own signal and timeout.
// The engine itself goes on.
func newSystemStop(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	o := stopFlags(cmd.Flags())
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		timeout, err := o.timeout()
		if err != nil {
			return err
		}
		list, err := engine.ContainerList(ctx, client.ContainerListOptions{})
		if err != nil {
			return err
		}
		names := make([]string, len(list.Items))
		for i, c := range list.Items {
			names[i] = c.ID
		}
		return a.each(ctx, names, func(ctx context.Context, id string) error {
			_, err := engine.ContainerStop(ctx, id, client.ContainerStopOptions{Signal: o.signal, Timeout: timeout})
			if errdefs.IsNotFound(err) {
				return errSkip // one with --rm that has just ended
			}
			return err
		})
	})
	return cmd
}
