package cli

import (
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// completer offers names for arguments and flags to a shell.
type completer = func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective)

func isRunning(c container.Summary) bool { return c.State == container.StateRunning }
func isPaused(c container.Summary) bool  { return c.State == container.StatePaused }
func isStopped(c container.Summary) bool {
	return c.State == container.StateExited || c.State == container.StateCreated
}

// completeContainers offers names for the first limit arguments (-1: for all).
func completeContainers(a *App, limit int, want func(container.Summary) bool) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if limit >= 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveDefault
		}
		engine, err := a.Engine(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := engine.ContainerList(cmd.Context(), client.ContainerListOptions{All: true})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, c := range list.Items {
			if want == nil || want(c) {
				for _, n := range c.Names {
					names = append(names, strings.TrimPrefix(n, "/"))
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeImages offers tags for the first limit arguments (-1: for all).
func completeImages(a *App, limit int) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if limit >= 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveDefault
		}
		engine, err := a.Engine(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := engine.ImageList(cmd.Context(), client.ImageListOptions{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, i := range list.Items {
			names = append(names, i.RepoTags...)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeVolumes(a *App) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		engine, err := a.Engine(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := engine.VolumeList(cmd.Context(), client.VolumeListOptions{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, v := range list.Items {
			names = append(names, v.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeNetworks(a *App) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		engine, err := a.Engine(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := engine.NetworkList(cmd.Context(), client.NetworkListOptions{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, n := range list.Items {
			names = append(names, n.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeContexts(a *App) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		names := []string{"default"}
		list, err := contextStore{a}.store().List()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		for _, m := range list {
			names = append(names, m.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
