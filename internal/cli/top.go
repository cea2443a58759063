package cli

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newTop(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER [ps OPTIONS]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, 1, isRunning)}
	cmd.Flags().SetInterspersed(false) // the rest is for ps
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		top, err := engine.ContainerTop(ctx, args[0], client.ContainerTopOptions{Arguments: args[1:]})
		if err != nil {
			return err
		}
		var b bytes.Buffer
		for _, row := range append([][]string{top.Titles}, top.Processes...) {
			fmt.Fprintln(&b, strings.Join(row, "\t"))
		}
		return format.Table(a.Out, b.Bytes(), 20, 3)
	})
	return cmd
}
