package cli

import (
	"context"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

// The commands are not below exec: `hezi exec ls web` runs web in the container ls.

func newExecsLs(a *App) *cobra.Command {
	var quiet, noTrunc bool
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS] [CONTAINER]", Args: maxArgs(1), ValidArgsFunction: completeContainers(a, 1, isRunning)}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display exec IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&source, "format", "", formatHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		query := url.Values{}
		if len(args) == 1 {
			query.Set("container", args[0])
		}
		var list []format.ExecSummary
		if _, err := engine.GetOwn(ctx, "/hezi/execs", query, nil, &list); err != nil {
			return ownOf("execs ls", err)
		}
		p := format.Printer{Out: a.Out, Source: format.ExecSource(source, quiet), Headers: format.ExecHeaders}
		return format.Rows(p, format.Execs(list, !noTrunc, time.Now()))
	})
	return cmd
}

func newExecsKill(a *App) *cobra.Command {
	var signal string
	cmd := &cobra.Command{Use: "[OPTIONS] EXEC [EXEC...]", Args: minArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Send a signal to all processes of one or more execs: to those too that the command started and left behind."}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "Signal to send")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.each(ctx, args, func(ctx context.Context, id string) error {
			return ownOf("execs kill", engine.KillExec(ctx, id, signal))
		})
	})
	return cmd
}
