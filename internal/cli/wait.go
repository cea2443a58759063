package cli

import (
	"context"
	"errors"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newWait(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, isRunning)}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		var errs []error
		for _, name := range args {
			wait := engine.ContainerWait(ctx, name, client.ContainerWaitOptions{})
			select {
			case res := <-wait.Result:
				if res.Error != nil && res.Error.Message != "" {
					errs = append(errs, errors.New(res.Error.Message))
					continue
				}
				a.println(res.StatusCode)
			case err := <-wait.Error:
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	return cmd
}
