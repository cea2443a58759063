package cli

import (
	"context"
	"time"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

const formatHelp = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`

const inspectFormatHelp = `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`

func newPs(a *App) *cobra.Command {
	var quiet, noTrunc, latest bool
	var source string
	o := client.ContainerListOptions{}
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display container IDs")
	f.BoolVarP(&o.Size, "size", "s", false, "Display total file sizes")
	f.BoolVarP(&o.All, "all", "a", false, "Show all containers (default shows just running)")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&latest, "latest", "l", false, "Show the latest created container (includes all states)")
	f.IntVarP(&o.Limit, "last", "n", -1, "Show n last created containers (includes all states)")
	f.StringVar(&source, "format", "", formatHelp)
	f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		if latest && o.Limit == -1 {
			o.Limit = 1
		}
		if source == "" {
			source = a.config.PsFormat
		} else if quiet {
			a.warn("WARNING: Ignoring custom format, because both --format and --quiet are set.")
		}
		if source != "" && source != "raw" && source != "table" {
			size, err := format.NeedsSize(source)
			if err != nil {
				return err
			}
			if size && !quiet && !f.Changed("size") {
				o.Size = true
			}
		}
		o.Filters = filter.Value()
		list, err := engine.ContainerList(ctx, o)
		if err != nil {
			return err
		}
		p := format.Printer{Out: a.Out, Source: format.ContainerSource(source, quiet, o.Size), Headers: format.ContainerHeaders}
		return format.Rows(p, format.Containers(list.Items, !noTrunc, time.Now()))
	})
	return cmd
}
