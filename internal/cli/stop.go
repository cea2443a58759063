package cli

import (
	"context"
	"errors"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hezi/internal/cli/endpoint"
)

func newStop(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, isRunning)}
	o := stopFlags(cmd.Flags())
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		timeout, err := o.timeout()
		if err != nil {
			return err
		}
		return a.each(ctx, args, func(ctx context.Context, name string) error {
			_, err := engine.ContainerStop(ctx, name, client.ContainerStopOptions{Signal: o.signal, Timeout: timeout})
			return err
		})
	})
	return cmd
}

// stopOptions are shared by stop and restart.
type stopOptions struct {
	flags   *pflag.FlagSet
	signal  string
	seconds int
}

func stopFlags(f *pflag.FlagSet) *stopOptions {
	o := &stopOptions{flags: f}
	f.StringVarP(&o.signal, "signal", "s", "", "Signal to send to the container")
	f.IntVarP(&o.seconds, "timeout", "t", 0, "Seconds to wait before killing the container")
	f.IntVar(&o.seconds, "time", 0, "Seconds to wait before killing the container (deprecated: use --timeout)")
	_ = f.MarkDeprecated("time", "use --timeout instead") // the flag exists
	return o
}

// timeout is nil for the container's own.
func (o *stopOptions) timeout() (*int, error) {
	if o.flags.Changed("time") && o.flags.Changed("timeout") {
		return nil, errors.New("conflicting options: cannot specify both --timeout and --time")
	}
	if o.flags.Changed("time") || o.flags.Changed("timeout") {
		return &o.seconds, nil
	}
	return nil, nil
}
