package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/docker/cli/opts"
	"github.com/fvbommel/sortorder"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

// clusterFlags belong to volumes of a swarm, which there is not: they are known
// and refused.
func clusterFlags(f *pflag.FlagSet) (names []string) {
	f.String("availability", "active", `Cluster Volume availability ("active", "pause", "drain")`)
	f.String("group", "", "Cluster Volume group (cluster volumes)")
	f.Var(new(opts.MemBytes), "limit-bytes", "Minimum size of the Cluster Volume in bytes")
	f.Var(new(opts.MemBytes), "required-bytes", "Maximum size of the Cluster Volume in bytes")
	f.String("scope", "single", `Cluster Volume access scope ("single", "multi")`)
	f.Var(opts.NewMapOpts(nil, nil), "secret", "Cluster Volume secrets")
	f.String("sharing", "none", `Cluster Volume access sharing ("none", "readonly", "onewriter", "all")`)
	f.Var(opts.NewListOptsRef(new([]string), nil), "topology-preferred", "A topology that the Cluster Volume would be preferred in")
	f.Var(opts.NewListOptsRef(new([]string), nil), "topology-required", "A topology that the Cluster Volume must be accessible from")
	f.String("type", "block", `Cluster Volume access type ("mount", "block")`)
	return []string{"availability", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing", "topology-preferred", "topology-required", "type"}
}

func newVolumeCreate(a *App) *cobra.Command {
	var o client.VolumeCreateOptions
	driverOpts := opts.NewMapOpts(nil, nil)
	labels := opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{Use: "[OPTIONS] [VOLUME]", Args: maxArgs(1), ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.StringVarP(&o.Driver, "driver", "d", "local", "Specify volume driver name")
	f.StringVar(&o.Name, "name", "", "Specify volume name")
	f.Lookup("name").Hidden = true
	f.VarP(driverOpts, "opt", "o", "Set driver specific options")
	f.Var(&labels, "label", "Set metadata for a volume")
	cluster := clusterFlags(f)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		for _, name := range cluster {
			if f.Changed(name) {
				return fmt.Errorf("--%s is for cluster volumes of a swarm, and there is no swarm", name)
			}
		}
		if len(args) == 1 {
			if o.Name != "" {
				return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
			}
			o.Name = args[0]
		}
		o.DriverOpts = driverOpts.GetAll()
		o.Labels = opts.ConvertKVStringsToMap(labels.GetSlice())
		res, err := engine.VolumeCreate(ctx, o)
		if err != nil {
			return err
		}
		a.println(res.Volume.Name)
		return nil
	})
	return cmd
}

func newVolumeLs(a *App) *cobra.Command {
	var quiet, cluster bool
	var source string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{Use: "[OPTIONS]", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	f.StringVar(&source, "format", "", formatHelp)
	f.VarP(&filter, "filter", "f", `Provide filter values (e.g. "dangling=true")`)
	f.BoolVar(&cluster, "cluster", false, "Display only cluster volumes, and use cluster volume list formatting")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, _ []string) error {
		if cluster {
			return errors.New("--cluster shows volumes of a swarm, and there is no swarm")
		}
		list, err := engine.VolumeList(ctx, client.VolumeListOptions{Filters: filter.Value()})
		if err != nil {
			return err
		}
		for _, w := range list.Warnings {
			a.warn("WARNING:", w)
		}
		if source == "" && !quiet {
			source = a.config.VolumesFormat
		}
		slices.SortFunc(list.Items, func(x, y volume.Volume) int { return sortorder.NaturalCompare(x.Name, y.Name) })
		p := format.Printer{Out: a.Out, Source: format.VolumeSource(source, quiet), Headers: format.VolumeHeaders}
		return format.Rows(p, format.Volumes(list.Items))
	})
	return cmd
}

func newVolumeRm(a *App) *cobra.Command {
	var force, now bool
	cmd := &cobra.Command{
		Use: "[OPTIONS] VOLUME [VOLUME...]", Args: minArgs(1), ValidArgsFunction: completeVolumes(a),
		Long: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of one or more volumes")
	cmd.Flags().BoolVar(&now, "now", false, "Remove for good, not to the trash")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.each(ctx, args, func(ctx context.Context, name string) error {
			if now {
				return removeVolumeNow(ctx, engine, name, force)
			}
			_, err := engine.VolumeRemove(ctx, name, client.VolumeRemoveOptions{Force: force})
			return err
		})
	})
	return cmd
}
