package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newLogout(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use: "[SERVER]", Args: maxArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Log out from a registry.\nDefaults to Docker Hub if no server is specified.",
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		cfg, err := a.Config()
		if err != nil {
			return err
		}
		names, shown := []string{hubServer}, hubServer
		if len(args) == 1 && args[0] != "docker.io" {
			host := hostname(args[0])
			// Older clients stored a server under any of these names.
			names, shown = []string{args[0], host, "http://" + host, "https://" + host}, host
		}
		warnOfEnvironment(a)
		a.println("Removing login credentials for", shown)
		var failed []string
		for _, name := range names {
			if err := cfg.GetCredentialsStore(name).Erase(name); err != nil {
				failed = append(failed, fmt.Sprintf("%s: %v", name, err))
			}
		}
		if len(failed) == len(names) { // no error, as with Docker
			a.warn("WARNING: could not erase credentials:\n" + strings.Join(failed, "\n"))
		}
		return nil
	}
	return cmd
}
