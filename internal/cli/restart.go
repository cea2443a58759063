package cli

import (
	"context"
	"errors"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newRestart(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, nil)}
	o := stopFlags(cmd.Flags())
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		timeout, err := o.timeout()
		if err != nil {
			return err
		}
		var errs []error
		for _, name := range args { // one after the other, as their order may matter
			if _, err := engine.ContainerRestart(ctx, name, client.ContainerRestartOptions{Signal: o.signal, Timeout: timeout}); err != nil {
				errs = append(errs, err)
				continue
			}
			a.println(name)
		}
		return errors.Join(errs...)
	})
	return cmd
}
