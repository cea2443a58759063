package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newCommit(a *App) *cobra.Command {
	var o client.ContainerCommitOptions
	var pause bool
	changes := opts.NewListOpts(nil)
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", Args: rangeArgs(1, 2), ValidArgsFunction: completeContainers(a, 1, nil)}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&pause, "pause", "p", true, "Pause container during commit (deprecated: use --no-pause instead)")
	_ = f.MarkDeprecated("pause", "and enabled by default. Use --no-pause to disable pausing during commit.")
	f.BoolVar(&o.NoPause, "no-pause", false, "Disable pausing container during commit")
	f.StringVarP(&o.Comment, "message", "m", "", "Commit message")
	f.StringVarP(&o.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	f.VarP(&changes, "change", "c", "Apply Dockerfile instruction to the created image")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if f.Changed("pause") {
			if f.Changed("no-pause") {
				return errors.New("conflicting options: --no-pause and --pause cannot be used together")
			}
			o.NoPause = !pause
		}
		if len(args) > 1 {
			o.Reference = args[1]
		}
		o.Changes = changes.GetSlice()
		made, err := engine.ContainerCommit(ctx, args[0], o)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.Out, made.ID)
		return err
	})
	return cmd
}

func newDiff(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER", Args: exactArgs(1), ValidArgsFunction: completeContainers(a, 1, nil)}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		list, err := engine.ContainerDiff(ctx, args[0], client.ContainerDiffOptions{})
		if err != nil {
			return err
		}
		out := bufio.NewWriter(a.Out)
		for _, change := range list.Changes {
			fmt.Fprintln(out, change.Kind, change.Path)
		}
		return out.Flush()
	})
	return cmd
}
