package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newRm(a *App) *cobra.Command {
	var o client.ContainerRemoveOptions
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, nil)}
	f := cmd.Flags()
	f.BoolVarP(&o.RemoveVolumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	f.BoolVarP(&o.RemoveLinks, "link", "l", false, "Remove the specified link")
	f.BoolVarP(&o.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.each(ctx, args, func(ctx context.Context, name string) error {
			name = strings.Trim(name, "/")
			if name == "" {
				return errors.New("container name cannot be empty")
			}
			_, err := engine.ContainerRemove(ctx, name, o)
			if o.Force && errdefs.IsNotFound(err) {
				return errSkip
			}
			return err
		})
	})
	return cmd
}
