package cli

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newRmi(a *App) *cobra.Command {
	var force, noPrune bool
	var platforms []string
	cmd := &cobra.Command{Use: "[OPTIONS] IMAGE [IMAGE...]", Args: minArgs(1), ValidArgsFunction: completeImages(a, -1)}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Force removal of the image")
	f.BoolVar(&noPrune, "no-prune", false, "Do not delete untagged parents")
	f.StringSliceVar(&platforms, "platform", nil, `Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		list, err := parsePlatforms(platforms)
		if err != nil {
			return err
		}
		var errs []error
		fatal := false
		for _, name := range args {
			res, err := engine.ImageRemove(ctx, name, client.ImageRemoveOptions{Force: force, PruneChildren: !noPrune, Platforms: list})
			if err != nil {
				fatal = fatal || !errdefs.IsNotFound(err)
				errs = append(errs, err)
				continue
			}
			for _, d := range res.Items {
				if d.Deleted != "" {
					a.println("Deleted:", d.Deleted)
				} else {
					a.println("Untagged:", d.Untagged)
				}
			}
		}
		if err := errors.Join(errs...); err != nil {
			if !force || fatal {
				return err
			}
			a.warn(err) // -f does not mind an image that is not there
		}
		return nil
	})
	return cmd
}
