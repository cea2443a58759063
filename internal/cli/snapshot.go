package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/format"
)

func newSnapshot(a *App) *cobra.Command {
	cmd := &cobra.Command{Use: "CONTAINER [NAME]", Args: rangeArgs(1, 2), ValidArgsFunction: completeContainers(a, 1, nil),
		Long: "Keep what a container has written to its own layer, for `hezi rollback` to bring back. Volumes and other mounts are not part of it. " +
			"One that is stopped costs no copy; one that runs is frozen while its layer is copied. Without NAME the snapshot is named by the time."}
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		query := url.Values{}
		if len(args) == 2 {
			if args[1] == "" {
				return errors.New("the name of a snapshot is empty: leave it out to have it named by the time")
			}
			query.Set("name", args[1])
		}
		var made format.SnapshotSummary
		if err := engine.PostOwn(ctx, ownContainer(args[0], "snapshots"), query, nil, struct{}{}, &made); err != nil {
			return ownOf("snapshot", err)
		}
		_, err := fmt.Fprintln(a.Out, made.Name)
		return err
	})
	return cmd
}

func newSnapshots(a *App) *cobra.Command {
	var quiet, noTrunc bool
	var source string
	var remove []string
	cmd := &cobra.Command{Use: "[OPTIONS] [CONTAINER]", Args: maxArgs(1), ValidArgsFunction: completeContainers(a, 1, nil),
		Long: "List the snapshots of a container, or of all, or give some of a container up. SIZE is what the container had written since the snapshot before."}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display names")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&source, "format", "", formatHelp)
	f.StringArrayVar(&remove, "rm", nil, "Remove the snapshot of this name (may be given several times)")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if len(remove) > 0 {
			if len(args) != 1 {
				return errors.New("--rm needs the container: hezi snapshots --rm NAME CONTAINER")
			}
			return a.each(ctx, remove, func(ctx context.Context, name string) error {
				return ownOf("snapshots", engine.DeleteOwn(ctx, ownContainer(args[0], "snapshots"), url.Values{"name": {name}}, nil))
			})
		}
		query := url.Values{}
		if len(args) == 1 {
			query.Set("container", args[0])
		}
		var list []format.SnapshotSummary
		if _, err := engine.GetOwn(ctx, "/hezi/snapshots", query, nil, &list); err != nil {
			return ownOf("snapshots", err)
		}
		p := format.Printer{Out: a.Out, Source: format.SnapshotSource(source, quiet), Headers: format.SnapshotHeaders}
		return format.Rows(p, format.Snapshots(list, !noTrunc, time.Now()))
	})
	return cmd
}

func newRollback(a *App) *cobra.Command {
	var restart bool
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER NAME", Args: exactArgs(2), ValidArgsFunction: completeContainers(a, 1, nil),
		Long: "Give a container that is stopped the files of a snapshot again. What it wrote since is given up; snapshots stay."}
	cmd.Flags().BoolVar(&restart, "restart", false, "Stop the container before, if it runs, and start it again")
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		name, started := args[0], false
		if restart {
			c, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
			if err != nil {
				return err
			}
			if err := hasSnapshot(ctx, engine, name, args[1]); err != nil {
				return err
			}
			if s := c.Container.State; s != nil && (s.Running || s.Restarting) {
				started = true
				if _, err := engine.ContainerStop(ctx, name, client.ContainerStopOptions{}); err != nil {
					return err
				}
			}
		}
		err := ownOf("rollback", engine.PostOwn(ctx, ownContainer(name, "rollback"), url.Values{"name": {args[1]}}, nil, struct{}{}, nil))
		if started { // also as it was, if nothing could be brought back
			_, again := engine.ContainerStart(ctx, name, client.ContainerStartOptions{})
			err = errors.Join(err, again)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.Out, name)
		return err
	})
	return cmd
}

// hasSnapshot says what would fail before a container is stopped for it.
func hasSnapshot(ctx context.Context, engine *endpoint.Connection, container, name string) error {
	var list []format.SnapshotSummary
	if _, err := engine.GetOwn(ctx, "/hezi/snapshots", url.Values{"container": {container}}, nil, &list); err != nil {
		return ownOf("rollback", err)
	}
	for _, s := range list {
		if s.Name == name {
			return nil
		}
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("No such snapshot: %s of container %s: hezi snapshots %s lists them", name, container, container))
}

func ownContainer(ref, what string) string {
	return "/hezi/containers/" + url.PathEscape(ref) + "/" + what
}

// ownOf says why another engine cannot do what only Hezi does.
func ownOf(command string, err error) error {
	if errors.Is(err, endpoint.ErrNotHezi) {
		return fmt.Errorf("hezi %s: %w: Docker's engine has no such operation", command, err)
	}
	return err
}
