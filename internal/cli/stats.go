package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newStats(a *App) *cobra.Command {
	var all, once, noTrunc bool
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS] [CONTAINER...]", ValidArgsFunction: completeContainers(a, -1, isRunning)}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show all containers (default shows just running)")
	f.BoolVar(&once, "no-stream", false, "Disable streaming stats and only pull the first result")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not truncate output")
	f.StringVar(&source, "format", "", formatHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, names []string) error {
		if source == "" {
			source = a.config.StatsFormat
		}
		g := gauge{engine: engine, names: names, all: all}
		p := format.Printer{Source: format.StatsSource(source), Headers: format.StatsHeaders}
		print := func(w io.Writer, list []*container.StatsResponse) error {
			rows := make([]*format.StatsRow, len(list))
			for i, s := range list {
				rows[i] = format.Stats(g.asked(i, s), s, !noTrunc)
			}
			p.Out = w
			return format.Rows(p, rows)
		}
		list, err := g.read(ctx)
		if err != nil {
			return err
		}
		if once {
			if len(list) == 0 {
				return nil
			}
			return print(a.Out, list)
		}
		return g.stream(ctx, a.Out, list, print)
	})
	return cmd
}

// statsInterval is how often the screen is drawn anew.
const statsInterval = time.Second

// gauge reads the counters of the containers that were asked for.
type gauge struct {
	engine  *endpoint.Connection
	names   []string // none: all that run
	all     bool     // with those that do not
	foreign bool     // the engine is not Hezi's: each container is asked for alone
}

// asked is the name by which a row was asked for.
func (g *gauge) asked(i int, s *container.StatsResponse) string {
	if len(g.names) > 0 {
		return g.names[i]
	}
	return s.ID
}

// read has all counters at one time. A container that was not named and is gone
// meanwhile is left out.
func (g *gauge) read(ctx context.Context) ([]*container.StatsResponse, error) {
	if !g.foreign {
		q := url.Values{"container": g.names}
		if g.all {
			q.Set("all", "1")
		}
		var list []*container.StatsResponse
		_, err := g.engine.GetOwn(ctx, "/hezi/containers/stats", q, nil, &list)
		switch {
		case errors.Is(err, endpoint.ErrNotHezi):
			g.foreign = true
		case !errdefs.IsNotFound(err) || len(g.names) < 2:
			return list, err
		} // each that is missing is named
	}
	names := g.names
	if len(names) == 0 {
		res, err := g.engine.ContainerList(ctx, client.ContainerListOptions{All: g.all})
		if err != nil {
			return nil, err
		}
		for _, c := range res.Items {
			names = append(names, c.ID)
		}
	}
	list := make([]*container.StatsResponse, len(names))
	errs := make([]error, len(names))
	var wait sync.WaitGroup
	for i, name := range names {
		wait.Go(func() { list[i], errs[i] = g.one(ctx, name) })
	}
	wait.Wait()
	if len(g.names) > 0 {
		return list, errors.Join(errs...)
	}
	there := list[:0]
	for i, s := range list {
		if errs[i] == nil {
			there = append(there, s)
		} else if !errdefs.IsNotFound(errs[i]) {
			return nil, errs[i]
		}
	}
	return there, nil
}

// one asks any engine for one container.
func (g *gauge) one(ctx context.Context, name string) (*container.StatsResponse, error) {
	res, err := g.engine.ContainerStats(ctx, name, client.ContainerStatsOptions{IncludePreviousSample: true})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	s := &container.StatsResponse{}
	if err := json.NewDecoder(res.Body).Decode(s); err != nil {
		return nil, fmt.Errorf("read the statistics of %s: %w", name, err)
	}
	return s, nil
}

// stream draws the screen again and again, until the context ends, or what was
// named is gone.
func (g *gauge) stream(ctx context.Context, out io.Writer, list []*container.StatsResponse, print func(io.Writer, []*container.StatsResponse) error) error {
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	for {
		var table, frame bytes.Buffer
		if err := print(&table, list); err != nil {
			return err
		}
		frame.WriteString("\033[H") // to the top
		for line := range bytes.Lines(table.Bytes()) {
			frame.Write(bytes.TrimSuffix(line, []byte("\n")))
			frame.WriteString("\033[K\n") // without what was there before
		}
		frame.WriteString("\033[J")
		if _, err := frame.WriteTo(out); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		next, err := g.read(ctx)
		for errdefs.IsNotFound(err) && len(g.names) > 0 { // some are removed
			if g.forget(ctx); len(g.names) == 0 {
				return nil
			}
			next, err = g.read(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			continue // the engine is being started again
		case err != nil:
			return err
		}
		list = next
	}
}

// forget leaves out the containers that are gone.
func (g *gauge) forget(ctx context.Context) {
	var there []string
	for _, name := range g.names {
		if _, err := g.engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{}); !errdefs.IsNotFound(err) {
			there = append(there, name)
		}
	}
	g.names = there
}
