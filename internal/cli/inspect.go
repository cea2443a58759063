package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

// lookup finds one object: typed, and as the engine wrote it.
type lookup func(ctx context.Context, name string) (typed any, raw []byte, err error)

func newInspect(a *App) *cobra.Command {
	var source, kind string
	var size bool
	cmd := &cobra.Command{Use: "[OPTIONS] NAME|ID [NAME|ID...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, nil)}
	f := cmd.Flags()
	f.StringVarP(&source, "format", "f", "", inspectFormatHelp)
	f.StringVar(&kind, "type", "", "Only inspect objects of the given type")
	f.BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if f.Changed("type") && kind == "" {
			return fmt.Errorf(`type is empty: must be one of "%s"`, strings.Join(objectTypes, `", "`))
		}
		find, err := lookupOf(engine, kind, size, func(kind string) { a.warn("WARNING: --size ignored for", kind) })
		if err != nil {
			return err
		}
		return a.inspect(ctx, args, source, find)
	})
	return cmd
}

func newContainerInspect(a *App) *cobra.Command {
	var source string
	var size bool
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, nil)}
	cmd.Flags().StringVarP(&source, "format", "f", "", inspectFormatHelp)
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.inspect(ctx, args, source, containerLookup(engine, size))
	})
	return cmd
}

func newImageInspect(a *App) *cobra.Command {
	var source, platform string
	cmd := &cobra.Command{Use: "[OPTIONS] IMAGE [IMAGE...]", Args: minArgs(1), ValidArgsFunction: completeImages(a, -1)}
	cmd.Flags().StringVarP(&source, "format", "f", "", inspectFormatHelp)
	cmd.Flags().StringVar(&platform, "platform", "", `Inspect a specific platform of the multi-platform image.
If the image or the server is not multi-platform capable, the command will error out if the platform does not match.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)`)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		platforms, err := platformList(platform)
		if err != nil {
			return err
		}
		var o []client.ImageInspectOption
		if len(platforms) > 0 {
			o = append(o, client.ImageInspectWithPlatform(&platforms[0]))
		}
		return a.inspect(ctx, args, source, imageLookup(engine, o...))
	})
	return cmd
}

func newNetworkInspect(a *App) *cobra.Command {
	var source string
	var verbose bool
	cmd := &cobra.Command{Use: "[OPTIONS] NETWORK [NETWORK...]", Args: minArgs(1), ValidArgsFunction: completeNetworks(a)}
	cmd.Flags().StringVarP(&source, "format", "f", "", inspectFormatHelp)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Verbose output for diagnostics")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.inspect(ctx, args, source, networkLookup(engine, verbose))
	})
	return cmd
}

func newVolumeInspect(a *App) *cobra.Command {
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS] VOLUME [VOLUME...]", Args: minArgs(1), ValidArgsFunction: completeVolumes(a)}
	cmd.Flags().StringVarP(&source, "format", "f", "", inspectFormatHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return a.inspect(ctx, args, source, volumeLookup(engine))
	})
	return cmd
}

// inspect prints every object that is found, and then what was not.
func (a *App) inspect(ctx context.Context, names []string, source string, find lookup) error {
	out, err := format.NewInspection(source)
	if err != nil {
		return &exitError{code: 64, err: err}
	}
	var errs []error
	for _, name := range names {
		typed, raw, err := find(ctx, name)
		if err == nil {
			err = out.Add(typed, raw)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append([]error{out.Flush(a.Out)}, errs...)...)
}

var objectTypes = []string{"config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"}

// lookupOf looks for one type, or for all of them in turn: a container, an
// image, a network, a volume.
func lookupOf(engine *endpoint.Connection, kind string, size bool, ignored func(kind string)) (lookup, error) {
	type searched struct {
		kind string
		find lookup
	}
	all := []searched{
		{"container", containerLookup(engine, size)},
		{"image", imageLookup(engine)},
		{"network", networkLookup(engine, false)},
		{"volume", volumeLookup(engine)},
	}
	switch kind {
	case "", "container", "image", "network", "volume":
	case "config", "node", "secret", "service", "task", "plugin":
		return nil, fmt.Errorf("objects of type %q belong to swarm mode and to plugins, which this client does not drive", kind)
	default:
		return nil, fmt.Errorf(`unknown type: %q: must be one of "%s"`, kind, strings.Join(objectTypes, `", "`))
	}
	return func(ctx context.Context, name string) (any, []byte, error) {
		for _, s := range all {
			if kind != "" && s.kind != kind {
				continue
			}
			typed, raw, err := s.find(ctx, name)
			if err != nil {
				if kind == "" && notThisType(err) {
					continue
				}
				return nil, nil, err
			}
			if size && s.kind != "container" {
				ignored(s.kind)
			}
			return typed, raw, nil
		}
		return nil, nil, fmt.Errorf("error: no such object: %s", name)
	}, nil
}

// notThisType says that another type may have the name.
func notThisType(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) || strings.Contains(err.Error(), "invalid reference format")
}

func containerLookup(engine *endpoint.Connection, size bool) lookup {
	return func(ctx context.Context, name string) (any, []byte, error) {
		res, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{Size: size})
		return &res.Container, res.Raw, err
	}
}

func imageLookup(engine *endpoint.Connection, o ...client.ImageInspectOption) lookup {
	return func(ctx context.Context, name string) (any, []byte, error) {
		var raw bytes.Buffer
		res, err := engine.ImageInspect(ctx, name, append([]client.ImageInspectOption{client.ImageInspectWithRawResponse(&raw)}, o...)...)
		return res, raw.Bytes(), err
	}
}

func networkLookup(engine *endpoint.Connection, verbose bool) lookup {
	return func(ctx context.Context, name string) (any, []byte, error) {
		res, err := engine.NetworkInspect(ctx, name, client.NetworkInspectOptions{Verbose: verbose})
		return res.Network, res.Raw, err
	}
}

func volumeLookup(engine *endpoint.Connection) lookup {
	return func(ctx context.Context, name string) (any, []byte, error) {
		res, err := engine.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
		return res.Volume, res.Raw, err
	}
}
