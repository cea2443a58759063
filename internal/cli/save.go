package cli

import (
	"context"
	"io"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newSave(a *App) *cobra.Command {
	var path string
	var platforms []string
	cmd := &cobra.Command{Use: "[OPTIONS] IMAGE [IMAGE...]", Args: minArgs(1), ValidArgsFunction: completeImages(a, -1)}
	f := cmd.Flags()
	f.StringVarP(&path, "output", "o", "", "Write to a file, instead of STDOUT")
	f.StringSliceVar(&platforms, "platform", nil, `Save only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8")`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		list, err := parsePlatforms(platforms)
		if err != nil {
			return err
		}
		var o []client.ImageSaveOption
		if len(list) > 0 {
			o = append(o, client.ImageSaveWithPlatforms(list...))
		}
		return output(ctx, a, path, "save image", func() (io.ReadCloser, error) { return engine.ImageSave(ctx, args, o...) })
	})
	return cmd
}
