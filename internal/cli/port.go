package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newPort(a *App) *cobra.Command {
	var exposed bool
	var source string
	cmd := &cobra.Command{Use: "CONTAINER [PRIVATE_PORT[/PROTO]]", ValidArgsFunction: completeContainers(a, 1, isRunning)}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if exposed {
			return noArgs(cmd, args)
		}
		return rangeArgs(1, 2)(cmd, args)
	}
	cmd.Flags().BoolVar(&exposed, "exposed", false, "List what other machines can reach, of all containers")
	cmd.Flags().StringVar(&source, "format", "", "With --exposed: "+formatHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if exposed {
			return a.exposed(ctx, engine, source)
		}
		if source != "" {
			return errors.New("--format is for --exposed")
		}
		c, err := engine.ContainerInspect(ctx, args[0], client.ContainerInspectOptions{})
		if err != nil {
			return err
		}
		var ports network.PortMap
		if c.Container.NetworkSettings != nil {
			ports = c.Container.NetworkSettings.Ports
		}
		var lines []string
		if len(args) == 2 {
			port, err := network.ParsePort(args[1])
			if err != nil {
				return err
			}
			if len(ports[port]) == 0 {
				return fmt.Errorf("no public port '%s' published for %s", args[1], args[0])
			}
			for _, b := range ports[port] {
				lines = append(lines, format.Place(b.HostIP, b.HostPort))
			}
		} else {
			for port, bindings := range ports {
				for _, b := range bindings {
					lines = append(lines, fmt.Sprintf("%s -> %s", port, format.Place(b.HostIP, b.HostPort)))
				}
			}
		}
		slices.SortFunc(lines, sortorder.NaturalCompare)
		for _, l := range lines {
			a.println(l)
		}
		return nil
	})
	return cmd
}

// exposed lists what other machines can reach if the host's own firewall lets them.
func (a *App) exposed(ctx context.Context, engine *endpoint.Connection, source string) error {
	list, err := engine.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return err
	}
	nets, err := engine.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return err
	}
	if source == "" {
		source = "table"
	}
	if source == "table" {
		source = "table {{.Container}}\t{{.Port}}\t{{.Address}}\t{{.Why}}"
	}
	return format.Rows(format.Printer{Out: a.Out, Source: source, Headers: format.ExposedHeaders}, format.Exposures(list.Items, nets.Items))
}
