package cli

import (
	"context"
	"io"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newLogs(a *App) *cobra.Command {
	o := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER", Args: exactArgs(1), ValidArgsFunction: completeContainers(a, 1, nil)}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	f.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	f.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		c, err := engine.ContainerInspect(ctx, args[0], client.ContainerInspectOptions{})
		if err != nil {
			return err
		}
		now := time.Now()
		o.Since, o.Until = moment(o.Since, now), moment(o.Until, now)
		logs, err := engine.ContainerLogs(ctx, c.Container.ID, o)
		if err != nil {
			return err
		}
		defer logs.Close()
		if c.Container.Config.Tty {
			_, err = io.Copy(a.Out, logs)
		} else {
			_, err = stdcopy.StdCopy(a.Out, a.Err, logs)
		}
		return err
	})
	return cmd
}
