package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/volume"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

// What is here is Hezi's own: another engine is told apart first, for its answers
// would not say so.

func ownVolume(name, what string) string { return "/hezi/volumes/" + name + "/" + what }

// ownVolumes says why another engine cannot do it.
func ownVolumes(verb string, err error) error {
	if errors.Is(err, endpoint.ErrNotHezi) {
		return fmt.Errorf("hezi volume %s: %w: Docker's engine has no such operation", verb, err)
	}
	return err
}

// postVolume sends a request of a volume's without a body and decodes the answer, if out is not nil.
func postVolume(ctx context.Context, engine *endpoint.Connection, verb, name, what string, query url.Values, out any) error {
	return ownVolumes(verb, engine.PostOwn(ctx, ownVolume(name, what), query, nil, struct{}{}, out))
}

const pauseHelp = "Freeze the containers that use the volume meanwhile"

func flagged(query url.Values, name string, on bool) url.Values {
	if on {
		query.Set(name, "1")
	}
	return query
}

func removeVolumeNow(ctx context.Context, engine *endpoint.Connection, name string, force bool) error {
	if err := engine.RequireHezi(ctx, "--now"); err != nil {
		return err
	}
	resp, err := engine.Call(ctx, http.MethodDelete, "/volumes/"+name, flagged(url.Values{"now": {"1"}}, "force", force), nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func newVolumeExport(a *App) *cobra.Command {
	var path string
	var plain, pause bool
	cmd := &cobra.Command{Use: "[OPTIONS] VOLUME", Args: exactArgs(1), ValidArgsFunction: completeVolumes(a),
		Long: "Write what a volume holds as a tar archive that is compressed by zstd. volume import makes a volume of it."}
	f := cmd.Flags()
	f.StringVarP(&path, "output", "o", "", "Write to a file, instead of STDOUT")
	f.BoolVar(&plain, "plain", false, "Do not compress")
	f.BoolVar(&pause, "pause", false, pauseHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return output(ctx, a, path, "export volume", func() (io.ReadCloser, error) {
			if err := engine.RequireHezi(ctx, "volume export"); err != nil {
				return nil, err
			}
			resp, err := engine.Call(ctx, http.MethodGet, ownVolume(args[0], "export"), flagged(flagged(url.Values{}, "plain", plain), "pause", pause), nil)
			if err != nil {
				return nil, err
			}
			return resp.Body, nil
		})
	})
	return cmd
}

func newVolumeImport(a *App) *cobra.Command {
	labels := opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{Use: "[OPTIONS] VOLUME [FILE|-]", Args: rangeArgs(1, 2), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Make a volume of a tar archive, plain or compressed, from a file or standard input."}
	cmd.Flags().Var(&labels, "label", "Set metadata for the volume")
	size := cmd.Flags().String("size", "", "Limit what the volume takes (such as 10g)")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if err := engine.RequireHezi(ctx, "volume import"); err != nil {
			return err
		}
		in := io.Reader(a.In)
		if len(args) == 2 && args[1] != "-" {
			file, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer file.Close()
			if info, err := file.Stat(); err == nil && info.IsDir() {
				return fmt.Errorf("%s is a folder: make an archive of it: tar -C %s -c . | hezi volume import %s", args[1], args[1], args[0])
			}
			in = file
		}
		query := url.Values{"label": labels.GetSlice()}
		if *size != "" {
			query.Set("size", *size)
		}
		resp, err := engine.Send(ctx, http.MethodPost, ownVolume(args[0], "import"), query, http.Header{"Content-Type": {"application/x-tar"}}, io.NopCloser(in))
		if err != nil {
			return err
		}
		a.println(args[0])
		return resp.Body.Close()
	})
	return cmd
}

func newVolumeClone(a *App) *cobra.Command {
	var pause bool
	cmd := &cobra.Command{Use: "[OPTIONS] VOLUME NEW_VOLUME", Args: exactArgs(2), ValidArgsFunction: completeVolumes(a)}
	cmd.Flags().BoolVar(&pause, "pause", false, pauseHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		var v volume.Volume
		if err := postVolume(ctx, engine, "clone", args[0], "clone", flagged(url.Values{"to": {args[1]}}, "pause", pause), &v); err != nil {
			return err
		}
		a.println(v.Name)
		return nil
	})
	return cmd
}

func newVolumeRename(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "VOLUME NEW_NAME", Args: exactArgs(2), ValidArgsFunction: completeVolumes(a),
		Long: "Rename a volume that no container has."}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return postVolume(ctx, engine, "rename", args[0], "rename", url.Values{"name": {args[1]}}, &volume.Volume{})
	})
	return cmd
}

func newVolumeProtect(verb string) func(*App) *cobra.Command {
	return func(a *App) *cobra.Command {
		cmd := &cobra.Command{Use: "VOLUME [VOLUME...]", Args: minArgs(1), ValidArgsFunction: completeVolumes(a)}
		cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
			return a.each(ctx, args, func(ctx context.Context, name string) error {
				return postVolume(ctx, engine, verb, name, verb, nil, nil)
			})
		})
		return cmd
	}
}

func newVolumeSnapshot(a *App) *cobra.Command {
	var pause bool
	cmd := &cobra.Command{Use: "[OPTIONS] VOLUME [SNAPSHOT]", Args: rangeArgs(1, 2), ValidArgsFunction: completeVolumes(a),
		Long: "Keep what a volume holds now, by the time as its name or by one of yours. volume restore brings it back."}
	cmd.Flags().BoolVar(&pause, "pause", false, pauseHelp)
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		query := flagged(url.Values{}, "pause", pause)
		if len(args) == 2 {
			query.Set("snapshot", args[1])
		}
		var made format.VolumeSnapshot
		if err := postVolume(ctx, engine, "snapshot", args[0], "snapshots", query, &made); err != nil {
			return err
		}
		a.println(made.Name)
		return nil
	})
	return cmd
}

func newVolumeSnapshots(a *App) *cobra.Command {
	var quiet bool
	var source string
	var remove []string
	cmd := &cobra.Command{Use: "[OPTIONS] VOLUME", Args: exactArgs(1), ValidArgsFunction: completeVolumes(a)}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display names")
	f.StringVar(&source, "format", "", formatHelp)
	f.StringSliceVar(&remove, "rm", nil, "Remove a snapshot, instead of a list")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if len(remove) > 0 {
			return a.each(ctx, remove, func(ctx context.Context, name string) error {
				return ownVolumes("snapshots", engine.DeleteOwn(ctx, ownVolume(args[0], "snapshots"), url.Values{"snapshot": {name}}, nil))
			})
		}
		var list []format.VolumeSnapshot
		if _, err := engine.GetOwn(ctx, ownVolume(args[0], "snapshots"), nil, nil, &list); err != nil {
			return ownVolumes("snapshots", err)
		}
		p := format.Printer{Out: a.Out, Source: format.VolumeStateSource(source, quiet), Headers: format.VolumeStateHeaders}
		return format.Rows(p, format.VolumeStates(list, time.Now()))
	})
	return cmd
}

func newVolumeRestore(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "VOLUME SNAPSHOT", Args: exactArgs(2), ValidArgsFunction: completeVolumes(a),
		Long: "Give a volume what it held when a snapshot was made. No container may run with it. What it holds now is lost, unless it is kept by another snapshot."}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		return postVolume(ctx, engine, "restore", args[0], "restore", url.Values{"snapshot": {args[1]}}, nil)
	})
	return cmd
}

func newVolumeUndo(a *App) *cobra.Command {
	var as string
	cmd := &cobra.Command{Use: "[OPTIONS] VOLUME", Args: exactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Bring a removed volume back, the latest of its name."}
	cmd.Flags().StringVar(&as, "as", "", "Give it another name")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		var v volume.Volume
		if err := postVolume(ctx, engine, "undo", args[0], "undo", url.Values{"as": {as}}, &v); err != nil {
			return err
		}
		a.println(v.Name)
		return nil
	})
	return cmd
}

func newVolumeTrash(a *App) *cobra.Command {
	var quiet, empty bool
	var source string
	cmd := &cobra.Command{Use: "[OPTIONS] [VOLUME]", Args: maxArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "List the removed volumes that can come back (volume undo), or, with --empty, remove them or one of them for good."}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	f.StringVar(&source, "format", "", formatHelp)
	f.BoolVar(&empty, "empty", false, "Remove them for good")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if empty {
			query := url.Values{}
			if len(args) == 1 {
				query.Set("name", args[0])
			}
			var report struct{ SpaceReclaimed int64 }
			if err := engine.DeleteOwn(ctx, "/hezi/trash/volumes", query, &report); err != nil {
				return ownVolumes("trash", err)
			}
			a.println("Total reclaimed space:", units.HumanSize(float64(report.SpaceReclaimed)))
			return nil
		}
		if len(args) > 0 {
			return errors.New("a volume's name goes with --empty")
		}
		var list []format.RemovedVolume
		if _, err := engine.GetOwn(ctx, "/hezi/trash/volumes", nil, nil, &list); err != nil {
			return ownVolumes("trash", err)
		}
		p := format.Printer{Out: a.Out, Source: format.TrashSource(source, quiet), Headers: format.TrashHeaders}
		return format.Rows(p, format.RemovedVolumes(list, time.Now()))
	})
	return cmd
}
