package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newImport(a *App) *cobra.Command {
	var message string
	changes := opts.NewListOpts(nil)
	cmd := &cobra.Command{Use: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]", Args: rangeArgs(1, 2)}
	f := cmd.Flags()
	f.VarP(&changes, "change", "c", "Apply Dockerfile instruction to the created image")
	f.StringVarP(&message, "message", "m", "", "Set commit message for imported image")
	platform := platformFlag(f)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		source := client.ImageImportSource{SourceName: args[0]}
		switch {
		case args[0] == "-":
			source.Source = a.In
		case strings.HasPrefix(args[0], "http://"), strings.HasPrefix(args[0], "https://"): // the engine fetches it
		default:
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			if info, err := file.Stat(); err == nil && info.IsDir() {
				return fmt.Errorf("%s is a folder: make an archive of it: tar -C %s -c . | hezi import - NAME", args[0], args[0])
			}
			source = client.ImageImportSource{Source: file, SourceName: "-"}
		}
		name := ""
		if len(args) > 1 {
			name = args[1]
		}
		o := client.ImageImportOptions{Message: message, Changes: changes.GetSlice()}
		if *platform != "" {
			p, err := parsePlatform(*platform)
			if err != nil {
				return err
			}
			o.Platform = ocispec.Platform(p)
		}
		body, err := engine.ImageImport(ctx, source, name, o)
		if err != nil {
			return err
		}
		defer body.Close()
		return progress(ctx, body, a.Out)
	})
	return cmd
}
