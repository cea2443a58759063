package cli

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newPort(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER [PRIVATE_PORT[/PROTO]]", Args: rangeArgs(1, 2), ValidArgsFunction: completeContainers(a, 1, isRunning)}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
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
				lines = append(lines, net.JoinHostPort(b.HostIP.String(), b.HostPort))
			}
		} else {
			for port, bindings := range ports {
				for _, b := range bindings {
					lines = append(lines, fmt.Sprintf("%s -> %s", port, net.JoinHostPort(b.HostIP.String(), b.HostPort)))
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
