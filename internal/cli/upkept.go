package cli

import (
	"github.com/spf13/cobra"

	"hezi/internal/cli/upkeep"
)

// upkept builds a command of package upkeep.
func upkept(build func(upkeep.Client) *cobra.Command) func(*App) *cobra.Command {
	return func(a *App) *cobra.Command {
		cmd := build(upkeep.Client{
			In: a.In, Out: a.Out, Run: a.run, Config: a.Config,
			Exit:       func(code int, err error) error { return &exitError{code: code, err: err} },
			FormatHelp: inspectFormatHelp, ListHelp: formatHelp,
		})
		cmd.Args, cmd.ValidArgsFunction = noArgs, cobra.NoFileCompletions
		return cmd
	}
}
