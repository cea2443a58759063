package cli

import (
	"github.com/spf13/cobra"

	"hezi/internal/cli/manifests"
)

// manifestCommand builds a command of package manifests.
func manifestCommand(build func(manifests.Client) *cobra.Command) func(*App) *cobra.Command {
	return func(a *App) *cobra.Command {
		cmd := build(manifests.Client{Out: a.Out, Engine: a.Engine, Auth: a.authFor, Args: func(least, most int) cobra.PositionalArgs {
			switch most {
			case -1:
				return minArgs(least)
			case least:
				return exactArgs(least)
			}
			return rangeArgs(least, most)
		}})
		cmd.ValidArgsFunction = cobra.NoFileCompletions
		return cmd
	}
}
