package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/merged"
	"hezi/internal/cli/term"
)

// logsCommand is `logs` with its flags.
type logsCommand struct {
	app    *App
	o      client.ContainerLogsOptions
	grep   string
	labels []string
	filter opts.FilterOpt
}

func newLogs(a *App) *cobra.Command {
	c := &logsCommand{app: a, o: client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}, filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", ValidArgsFunction: completeContainers(a, -1, nil)}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if c.chooses() {
			return nil
		}
		return minArgs(1)(cmd, args)
	}
	f := cmd.Flags()
	f.BoolVarP(&c.o.Follow, "follow", "f", false, "Follow log output")
	f.StringVar(&c.o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVar(&c.o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.BoolVarP(&c.o.Timestamps, "timestamps", "t", false, "Show timestamps")
	f.BoolVar(&c.o.Details, "details", false, "Show extra details provided to logs")
	f.StringVarP(&c.o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	f.StringVar(&c.grep, "grep", "", "Show only lines that match an expression (RE2); --tail counts those")
	f.StringArrayVar(&c.labels, "label", nil, "Show the logs of all containers with a label (e.g. \"app=web\")")
	f.Var(&c.filter, "filter", `Show the logs of all containers that a filter of ps chooses (e.g. "name=web")`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if c.grep != "" {
			if err := engine.RequireHezi(ctx, "logs --grep"); err != nil {
				return err
			}
		}
		now := time.Now()
		c.o.Since, c.o.Until = moment(c.o.Since, now), moment(c.o.Until, now)
		if len(args) == 1 && !c.chooses() {
			return c.one(ctx, engine, args[0])
		}
		return c.several(ctx, engine, args)
	})
	return cmd
}

// chooses says whether containers are chosen by what they are.
func (c *logsCommand) chooses() bool { return len(c.labels) > 0 || len(c.filter.Value()) > 0 }

func (c *logsCommand) one(ctx context.Context, engine *endpoint.Connection, name string) error {
	found, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	logs, err := c.open(ctx, engine, found.Container.ID, c.o)
	if err != nil {
		return err
	}
	defer logs.Close()
	switch {
	case found.Container.Config.Tty:
		_, err = io.Copy(c.app.Out, logs)
	case c.o.Timestamps || c.o.Details:
		err = merged.One(logs, c.app.Out, c.app.Err, c.o.Timestamps, c.o.Details)
	default:
		err = term.Demultiplex(logs, c.app.Out, c.app.Err)
	}
	return err
}

// open asks for a log; with --grep in a way that Docker's client library has not.
func (c *logsCommand) open(ctx context.Context, engine *endpoint.Connection, id string, o client.ContainerLogsOptions) (io.ReadCloser, error) {
	if c.grep == "" {
		return engine.ContainerLogs(ctx, id, o)
	}
	q := url.Values{"stdout": {"1"}, "stderr": {"1"}, "grep": {c.grep}, "tail": {o.Tail}, "since": {o.Since}, "until": {o.Until}}
	for name, on := range map[string]bool{"follow": o.Follow, "timestamps": o.Timestamps, "details": o.Details} {
		if on {
			q.Set(name, "1")
		}
	}
	resp, err := engine.Call(ctx, http.MethodGet, "/containers/"+id+"/logs", q, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// several shows logs in the order of time. One that cannot be read does not hide
// the others.
func (c *logsCommand) several(ctx context.Context, engine *endpoint.Connection, names []string) error {
	if c.chooses() {
		filters := c.filter.Value()
		if filters == nil {
			filters = client.Filters{}
		}
		for _, l := range c.labels {
			filters.Add("label", l)
		}
		list, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
		if err != nil {
			return err
		}
		for _, item := range list.Items {
			names = append(names, item.ID)
		}
		if len(names) == 0 {
			return errors.New("no container is chosen by --label and --filter: hezi ps -a shows which there are")
		}
	}
	o := c.o
	o.Timestamps = true
	var sources []merged.Source
	var failed []error
	seen := map[string]bool{}
	for _, name := range names {
		found, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
		if err != nil {
			failed = append(failed, err)
			continue
		}
		shown := strings.TrimPrefix(found.Container.Name, "/")
		if seen[found.Container.ID] {
			continue
		}
		seen[found.Container.ID] = true
		logs, err := c.open(ctx, engine, found.Container.ID, o)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", shown, err))
			continue
		}
		defer logs.Close()
		sources = append(sources, merged.Source{Name: shown, Terminal: found.Container.Config.Tty, Details: o.Details, Log: logs})
	}
	if len(sources) == 0 {
		return errors.Join(failed...)
	}
	err := merged.Show(sources, merged.Options{Out: c.app.Out, Err: c.app.Err, Timestamps: c.o.Timestamps, Follow: c.o.Follow})
	return errors.Join(append(failed, err)...)
}
