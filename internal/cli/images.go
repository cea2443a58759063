package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newImages(a *App) *cobra.Command {
	var quiet, noTrunc, digests, all, tree bool
	var source string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS] [REPOSITORY[:TAG]]", Args: maxArgs(1), ValidArgsFunction: completeImages(a, 1)}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVarP(&all, "all", "a", false, "Show all images (default hides intermediate and dangling images)")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVar(&digests, "digests", false, "Show digests")
	f.StringVar(&source, "format", "", formatHelp)
	f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
	f.BoolVar(&tree, "tree", false, "List multi-platform images as a tree (EXPERIMENTAL)")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if tree {
			return errors.New("--tree is not there yet: see one image in full with: hezi image inspect IMAGE")
		}
		filters := filter.Value()
		if len(args) > 0 {
			filters.Add("reference", args[0])
		}
		list, err := engine.ImageList(ctx, client.ImageListOptions{All: all, Filters: filters})
		if err != nil {
			return err
		}
		if dangling, ok := filters["dangling"]; !all && (!ok || dangling["false"]) {
			list.Items = slices.DeleteFunc(list.Items, format.IsDangling)
		}
		if source == "" && !quiet {
			source = a.config.ImagesFormat
		}
		p := format.Printer{Out: a.Out, Source: format.ImageSource(source, quiet, digests), Headers: format.ImageHeaders}
		rows := format.Images(list.Items, !noTrunc, digests, p.Source, time.Now())
		if len(rows) == 0 && len(args) > 0 && cmd.CalledAs() == "images" {
			a.hintSubcommand(args[0])
		}
		return format.Rows(p, rows)
	})
	return cmd
}

// hintSubcommand sees `images rm` where `image rm` was meant.
func (a *App) hintSubcommand(name string) {
	if slices.ContainsFunc(imageCommands(), func(e entry) bool { return e.name == name || slices.Contains(e.aliases, name) }) {
		a.warn("No images found matching \"" + name + "\": did you mean \"hezi image " + strings.ToLower(name) + "\"?")
	}
}
