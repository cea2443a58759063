package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
	"hezi/internal/cli/term"
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
		for _, name := range []string{"quiet", "no-trunc", "digests", "format"} {
			if tree && f.Changed(name) {
				return fmt.Errorf("--%s is not yet supported with --tree", name)
			}
		}
		if source == "" && !quiet && !tree {
			source = a.config.ImagesFormat
		}
		asTree := source == "" && !quiet && !noTrunc && !digests
		filters := filter.Value()
		if len(args) > 0 {
			filters.Add("reference", args[0])
		}
		dangling, ok := filters["dangling"]
		named := !all && (!ok || dangling["false"])
		t := imageTree(a.Out, tree)
		how := endpoint.AllOfIt
		switch {
		case asTree && tree:
			how = endpoint.Brief
		case asTree:
			how = endpoint.Row
		}
		var list []image.Summary
		used := map[string]int64{}
		found := 0
		err := engine.Images(ctx, client.ImageListOptions{All: all, Filters: filters, Manifests: asTree}, how, func(i *endpoint.Listed) error {
			if named && format.IsDangling(i.RepoTags) {
				return nil
			}
			found++
			if asTree {
				t.Add(i)
				return nil
			}
			s, err := i.Summary()
			list, used[i.ID] = append(list, s), i.LastUsed
			return err
		})
		if err != nil {
			return err
		}
		if found == 0 && len(args) > 0 && cmd.CalledAs() == "images" {
			a.hintSubcommand(args[0])
		}
		if asTree {
			return t.Print()
		}
		p := format.Printer{Out: a.Out, Source: format.ImageSource(source, quiet, digests), Headers: format.ImageHeaders}
		rows := format.Images(list, !noTrunc, digests, p.Source, time.Now())
		format.SetLastUsed(rows, used)
		return format.Rows(p, rows)
	})
	return cmd
}

// imageTree is as wide as the terminal, and has colours where they are wanted.
func imageTree(out *os.File, platforms bool) *format.Tree {
	t := &format.Tree{Out: out, Platforms: platforms}
	if term.IsTerminal(out) {
		_, cols := term.Size(out)
		t.Width, t.Color = int(cols), os.Getenv("NO_COLOR") == ""
	}
	return t
}

// hintSubcommand sees `images rm` where `image rm` was meant.
func (a *App) hintSubcommand(name string) {
	if slices.ContainsFunc(imageCommands(), func(e entry) bool { return e.name == name || slices.Contains(e.aliases, name) }) {
		a.warn("No images found matching \"" + name + "\": did you mean \"hezi image " + strings.ToLower(name) + "\"?")
	}
}
