package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newContainerPrune(a *App) *cobra.Command {
	var force bool
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	cmd.Flags().Var(&filter, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		if !force {
			if err := a.confirm(ctx, "WARNING! This will remove all stopped containers.\nAre you sure you want to continue?"); err != nil {
				if errors.Is(err, errNotConfirmed) {
					return nil // a no is an answer
				}
				return fmt.Errorf("container prune has been cancelled: %w", err)
			}
		}
		res, err := engine.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: a.pruneFilters(filter.Value())})
		if err != nil {
			return err
		}
		if len(res.Report.ContainersDeleted) > 0 {
			a.println("Deleted Containers:")
			for _, id := range res.Report.ContainersDeleted {
				a.println(id)
			}
			a.println()
		}
		a.println("Total reclaimed space:", units.HumanSize(float64(res.Report.SpaceReclaimed)))
		return nil
	})
	return cmd
}

// pruneFilters adds those of the configuration; a label that the flags filter
// by the other way wins.
func (a *App) pruneFilters(filters client.Filters) client.Filters {
	if filters == nil {
		filters = make(client.Filters)
	}
	for _, f := range a.config.PruneFilters {
		k, v, ok := strings.Cut(f, "=")
		if !ok || k == "label" && filters["label!"][v] || k == "label!" && filters["label"][v] {
			continue
		}
		filters.Add(k, v)
	}
	return filters
}

var errNotConfirmed = errors.New("not confirmed")

// confirm asks for a y; another answer is errNotConfirmed.
func (a *App) confirm(ctx context.Context, question string) error {
	fmt.Fprint(a.Out, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n') // no line is no
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		a.println()
		return context.Cause(ctx)
	case s := <-answer:
		if strings.EqualFold(s, "y") || strings.EqualFold(s, "yes") {
			return nil
		}
		return errNotConfirmed
	}
}
