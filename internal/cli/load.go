package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/term"
)

func newLoad(a *App) *cobra.Command {
	var input string
	var quiet bool
	var platforms []string
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
	f.StringSliceVar(&platforms, "platform", nil, `Load only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8").`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		source := a.In
		if input != "" {
			file, err := os.Open(input)
			if err != nil {
				return err
			}
			defer file.Close()
			source = file
		} else if term.IsTerminal(a.In) {
			return errors.New("requested load from stdin, but stdin is empty: name the archive with -i FILE, or pipe it in")
		}
		var o []client.ImageLoadOption
		if quiet || !term.IsTerminal(a.Out) {
			o = append(o, client.ImageLoadWithQuiet(true))
		}
		list, err := parsePlatforms(platforms)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			o = append(o, client.ImageLoadWithPlatforms(list...))
		}
		body, err := engine.ImageLoad(ctx, source, o...)
		if err != nil {
			return err
		}
		defer body.Close()
		return progress(ctx, body, a.Out)
	})
	return cmd
}

func parsePlatforms(list []string) ([]ocispec.Platform, error) {
	var platforms []ocispec.Platform
	for _, s := range list {
		p, err := parsePlatform(s)
		if err != nil {
			return nil, fmt.Errorf("invalid platform: %w", err)
		}
		platforms = append(platforms, p)
	}
	return platforms, nil
}
