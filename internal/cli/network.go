package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
	"hezi/internal/cli/request"
)

func newNetworkCreate(a *App) *cobra.Command {
	var o client.NetworkCreateOptions
	var ipv4, ipv6 bool
	var subnets []string
	var ranges []net.IPNet
	var gateways []net.IP
	var egress []string
	ipam := network.IPAM{}
	driverOpts, ipamOpts, auxiliary := opts.NewMapOpts(nil, nil), opts.NewMapOpts(nil, nil), opts.NewMapOpts(nil, nil)
	labels := opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{Use: "[OPTIONS] NETWORK", Args: exactArgs(1), ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.StringVarP(&o.Driver, "driver", "d", "bridge", "Driver to manage the Network")
	f.VarP(driverOpts, "opt", "o", "Set driver specific options")
	f.Var(&labels, "label", "Set metadata on a network")
	f.BoolVar(&o.Internal, "internal", false, "Restrict external access to the network")
	f.BoolVar(&ipv4, "ipv4", true, "Enable or disable IPv4 address assignment")
	f.BoolVar(&ipv6, "ipv6", false, "Enable or disable IPv6 address assignment")
	f.StringArrayVar(&egress, "egress", nil, `What all its containers may send to ("none", "allow=10.0.0.0/8,example.org:443")`)
	f.BoolVar(&o.Attachable, "attachable", false, "Enable manual container attachment")
	f.BoolVar(&o.Ingress, "ingress", false, "Create swarm routing-mesh network")
	f.StringVar(&o.Scope, "scope", "", "Control the network's scope")
	f.BoolVar(&o.ConfigOnly, "config-only", false, "Create a configuration only network")
	f.StringVar(&o.ConfigFrom, "config-from", "", "The network from which to copy the configuration")
	f.StringVar(&ipam.Driver, "ipam-driver", "default", "IP Address Management Driver")
	f.StringSliceVar(&subnets, "subnet", nil, "Subnet in CIDR format that represents a network segment")
	f.IPNetSliceVar(&ranges, "ip-range", nil, "Allocate container ip from a sub-range")
	f.IPSliceVar(&gateways, "gateway", nil, "IPv4 or IPv6 Gateway for the master subnet")
	f.Var(auxiliary, "aux-address", "Auxiliary IPv4 or IPv6 addresses used by Network driver")
	f.Var(ipamOpts, "ipam-opt", "Set IPAM driver specific options")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		var err error
		if ipam.Config, err = ipamConfig(subnets, ranges, gateways, auxiliary.GetAll()); err != nil {
			return err
		}
		if f.Changed("ipv4") {
			o.EnableIPv4 = &ipv4
		}
		if f.Changed("ipv6") {
			o.EnableIPv6 = &ipv6
		}
		ipam.Options, o.Options, o.IPAM = ipamOpts.GetAll(), driverOpts.GetAll(), &ipam
		o.Labels = opts.ConvertKVStringsToMap(labels.GetSlice())
		if len(egress) > 0 {
			if o.Labels[request.EgressLabel], err = request.Egress(egress); err != nil {
				return err
			}
			if err := a.ownFlags(ctx, "--egress"); err != nil {
				return err
			}
		}
		res, err := engine.NetworkCreate(ctx, args[0], o)
		if err != nil {
			return err
		}
		a.println(res.ID)
		return nil
	})
	return cmd
}

// ipamConfig finds the subnet of each range, gateway and auxiliary address. Each is
// of the one subnet that contains it.
func ipamConfig(subnets []string, ranges []net.IPNet, gateways []net.IP, auxiliary map[string]string) ([]network.IPAMConfig, error) {
	if len(subnets) < len(ranges) || len(subnets) < len(gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	list := make([]network.IPAMConfig, 0, len(subnets))
	for _, text := range subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet: %w: write an address and a prefix length, as in 10.5.0.0/24", err)
		}
		for _, c := range list {
			if c.Subnet.Overlaps(p) {
				return nil, errors.New("multiple overlapping subnet configuration is not supported")
			}
		}
		list = append(list, network.IPAMConfig{Subnet: p, AuxAddress: map[string]netip.Addr{}})
	}
	of := func(a netip.Addr) *network.IPAMConfig {
		i := slices.IndexFunc(list, func(c network.IPAMConfig) bool { return c.Subnet.Masked().Contains(a) })
		if i < 0 {
			return nil
		}
		return &list[i]
	}
	for _, r := range ranges {
		p, err := netip.ParsePrefix(r.String())
		if err != nil {
			return nil, fmt.Errorf("invalid ip-range %s: %w", r.String(), err)
		}
		switch c := of(p.Addr()); {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for range %s: name the network that it is in with --subnet", p)
		case c.IPRange.IsValid():
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", p, c.IPRange, c.Subnet)
		default:
			c.IPRange = p
		}
	}
	for _, ip := range gateways {
		g := addrOf(ip)
		switch c := of(g); {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for gateway %s: name the network that it is in with --subnet", g)
		case c.Gateway.IsValid():
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", g, c.Gateway, c.Subnet)
		default:
			c.Gateway = g
		}
	}
	for name, text := range auxiliary {
		if text == "" {
			continue
		}
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("invalid aux-address %s=%s: %w", name, text, err)
		}
		c := of(address)
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s: name the network that it is in with --subnet", text)
		}
		c.AuxAddress[name] = address
	}
	return list, nil
}

// addrOf is zero for a flag that was not given.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func newNetworkConnect(a *App) *cobra.Command {
	var ip, ip6 net.IP
	var linkLocal []net.IP
	var driverOpts []string
	s := &network.EndpointSettings{}
	links := opts.NewListOpts(opts.ValidateLink)
	cmd := &cobra.Command{Use: "[OPTIONS] NETWORK CONTAINER", Args: exactArgs(2), ValidArgsFunction: completeMembers(a, false)}
	f := cmd.Flags()
	f.IPVar(&ip, "ip", nil, `IPv4 address (e.g., "172.30.100.104")`)
	f.IPVar(&ip6, "ip6", nil, `IPv6 address (e.g., "2001:db8::33")`)
	f.Var(&links, "link", "Add link to another container")
	f.StringSliceVar(&s.Aliases, "alias", nil, "Add network-scoped alias for the container")
	f.IPSliceVar(&linkLocal, "link-local-ip", nil, "Add a link-local address for the container")
	f.StringSliceVar(&driverOpts, "driver-opt", nil, "driver options for the network")
	f.IntVar(&s.GwPriority, "gw-priority", 0, "Highest gw-priority provides the default gateway. Accepts positive and negative values.")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		for _, o := range driverOpts {
			k, v, ok := strings.Cut(o, "=")
			if k = strings.TrimSpace(k); !ok || k == "" {
				return fmt.Errorf("invalid key/value pair format in driver options: %q: write OPTION=VALUE", o)
			}
			if s.DriverOpts == nil {
				s.DriverOpts = map[string]string{}
			}
			s.DriverOpts[k] = strings.TrimSpace(v)
		}
		s.Links = links.GetSlice()
		s.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: addrOf(ip), IPv6Address: addrOf(ip6)}
		for _, l := range linkLocal {
			s.IPAMConfig.LinkLocalIPs = append(s.IPAMConfig.LinkLocalIPs, addrOf(l))
		}
		_, err := engine.NetworkConnect(ctx, args[0], client.NetworkConnectOptions{Container: args[1], EndpointConfig: s})
		return err
	})
	return cmd
}

func newNetworkDisconnect(a *App) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "[OPTIONS] NETWORK CONTAINER", Args: exactArgs(2), ValidArgsFunction: completeMembers(a, true)}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the container to disconnect from a network")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		_, err := engine.NetworkDisconnect(ctx, args[0], client.NetworkDisconnectOptions{Container: args[1], Force: force})
		return err
	})
	return cmd
}

// completeMembers offers networks, and then containers that are in it or not.
func completeMembers(a *App, in bool) completer {
	return func(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeNetworks(a)(cmd, args, text)
		}
		return completeContainers(a, 2, func(c container.Summary) bool {
			is := false
			if c.NetworkSettings != nil {
				_, is = c.NetworkSettings.Networks[args[0]]
			}
			return is == in
		})(cmd, args, text)
	}
}

func newNetworkRm(a *App) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "NETWORK [NETWORK...]", Args: minArgs(1), ValidArgsFunction: completeNetworks(a)}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.each(ctx, args, func(ctx context.Context, name string) error {
			_, err := engine.NetworkRemove(ctx, name, client.NetworkRemoveOptions{})
			if force && errdefs.IsNotFound(err) {
				return errSkip
			}
			return err
		})
	})
	return cmd
}

func newNetworkLs(a *App) *cobra.Command {
	var quiet, noTrunc bool
	var source string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display network IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not truncate the output")
	f.StringVar(&source, "format", "", formatHelp)
	f.VarP(&filter, "filter", "f", `Provide filter values (e.g. "driver=bridge")`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		list, err := engine.NetworkList(ctx, client.NetworkListOptions{Filters: filter.Value()})
		if err != nil {
			return err
		}
		if source == "" && !quiet {
			source = a.config.NetworksFormat
		}
		slices.SortFunc(list.Items, func(x, y network.Summary) int { return sortorder.NaturalCompare(x.Name, y.Name) })
		p := format.Printer{Out: a.Out, Source: format.NetworkSource(source, quiet), Headers: format.NetworkHeaders}
		return format.Rows(p, format.Networks(list.Items, !noTrunc))
	})
	return cmd
}
