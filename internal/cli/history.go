package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newHistory(a *App) *cobra.Command {
	var human, quiet, noTrunc bool
	var source, platform string
	cmd := &cobra.Command{Use: "[OPTIONS] IMAGE", Args: exactArgs(1), ValidArgsFunction: completeImages(a, 1)}
	f := cmd.Flags()
	f.BoolVarP(&human, "human", "H", true, "Print sizes and dates in human readable format")
	f.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&source, "format", "", formatHelp)
	f.StringVar(&platform, "platform", "", `Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		var o []client.ImageHistoryOption
		if platform != "" {
			p, err := parsePlatform(platform)
			if err != nil {
				return fmt.Errorf("invalid platform: %w", err)
			}
			o = append(o, client.ImageHistoryWithPlatform(p))
		}
		history, err := engine.ImageHistory(ctx, args[0], o...)
		if err != nil {
			return err
		}
		p := format.Printer{Out: a.Out, Source: format.HistorySource(source, quiet, human), Headers: format.HistoryHeaders}
		return format.Rows(p, format.Steps(history.Items, !noTrunc, human, time.Now()))
	})
	return cmd
}
