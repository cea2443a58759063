package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/moby/moby/api/types/registry"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

// newRegistryTest shows which host serves a registry's images, and why the
// others do not.
func newRegistryTest(a *App) *cobra.Command {
	var source string
	cmd := &cobra.Command{
		Use: "[OPTIONS] [REGISTRY|IMAGE]", Args: maxArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Ask every host that a registry's images may come from, as the engine is configured: mirrors and the registry itself.
Defaults to Docker Hub. With an image's name (one with a slash, as docker.io/library/debian) they are asked for the image, too.
The exit code is 1 if none serves.`,
	}
	cmd.Flags().StringVar(&source, "format", "", formatHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		name := "docker.io"
		if len(args) == 1 {
			name = args[0]
		}
		auth, err := authAt(a.config, searched(hostOf(name)+"/"))
		if err != nil {
			return err
		}
		var report format.RegistryReport
		_, err = engine.GetOwn(ctx, "/hezi/registry/test", url.Values{"name": {name}}, http.Header{registry.AuthHeader: {auth}}, &report)
		if errors.Is(err, endpoint.ErrNotHezi) {
			return fmt.Errorf("hezi registry test: %w: hezid is needed, as it is the engine that is asked how it reaches registries; Docker's has no such operation", err)
		}
		if err != nil {
			return err
		}
		if err := report.Print(a.Out, source); err != nil {
			return err
		}
		if !report.Serves() {
			return exit(1)
		}
		return nil
	})
	return cmd
}

// hostOf is the registry of what was named: with a slash it is an image.
func hostOf(name string) string {
	_, rest, ok := strings.Cut(name, "://")
	if ok {
		name = rest
	}
	host, rest, isImage := strings.Cut(name, "/")
	if isImage && rest != "" && !strings.ContainsAny(host, ".:") && host != "localhost" {
		return "docker.io"
	}
	return host
}
