package cli

import (
	"context"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newSearch(a *App) *cobra.Command {
	filter := opts.NewFilterOpt()
	var source string
	var limit int
	var noTrunc bool
	cmd := &cobra.Command{Use: "[OPTIONS] TERM", Args: exactArgs(1), ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
	f.IntVar(&limit, "limit", 0, "Max number of search results")
	f.StringVar(&source, "format", "", "Pretty-print search using a Go template")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		filters := filter.Value()
		if _, ok := filters["is-automated"]; ok {
			a.warn(`WARNING: the "is-automated" filter is deprecated, and searching for "is-automated=true" will not yield any results in future.`)
		}
		auth, err := authAt(a.config, searched(args[0]))
		if err != nil {
			return err
		}
		found, err := engine.ImageSearch(ctx, args[0], client.ImageSearchOptions{RegistryAuth: auth, Filters: filters, Limit: limit})
		if err != nil {
			return err
		}
		p := format.Printer{Out: a.Out, Source: format.SearchSource(source), Headers: format.SearchHeaders}
		return format.Rows(p, format.Found(found.Items, !noTrunc))
	})
	return cmd
}

// searched is the registry that a term is looked up in.
func searched(term string) string {
	host, _, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" || host == "docker.io" || host == "index.docker.io" {
		return hubServer
	}
	return host
}

// authAt encodes the credentials for a server. What cannot be read counts as
// none: the registry then says whether it wants some.
func authAt(cfg *configfile.ConfigFile, server string) (string, error) {
	auth, _ := cfg.GetAuthConfig(server)
	return authconfig.Encode(registry.AuthConfig{
		Username: auth.Username, Password: auth.Password, ServerAddress: auth.ServerAddress,
		Auth: auth.Auth, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	})
}
