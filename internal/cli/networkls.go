package cli

import (
	"context"
	"slices"

	"github.com/docker/cli/opts"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newNetworkLs(a *App) *cobra.Command {
	var quiet, noTrunc bool
	var source string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display network IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not truncate the output")
	f.StringVar(&source, "format", "", formatHelp)
	f.VarP(&filter, "filter", "f", `Provide filter values (e.g. "driver=bridge")`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		list, err := engine.NetworkList(ctx, client.NetworkListOptions{Filters: filter.Value()})
		if err != nil {
			return err
		}
		if source == "" && !quiet {
			source = a.config.NetworksFormat
		}
		slices.SortFunc(list.Items, func(x, y network.Summary) int { return sortorder.NaturalCompare(x.Name, y.Name) })
		p := format.Printer{Out: a.Out, Source: format.NetworkSource(source, quiet), Headers: format.NetworkHeaders}
		return format.Rows(p, format.Networks(list.Items, !noTrunc))
	})
	return cmd
}
