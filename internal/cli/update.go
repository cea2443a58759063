package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
	"hezi/internal/cli/request"
)

func newUpdate(a *App) *cobra.Command {
	r := container.Resources{}
	var memory, reservation, kernel opts.MemBytes
	var swap opts.MemSwapBytes
	var cpus opts.NanoCPUs
	var restart string
	var pids int64
	var publish, unpublish, egress, mounts, unmounts, huge []string
	cmd := &cobra.Command{Use: "[OPTIONS] CONTAINER [CONTAINER...]", Args: minArgs(1), ValidArgsFunction: completeContainers(a, -1, nil)}
	f := cmd.Flags()
	f.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	f.Int64Var(&r.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	f.Int64Var(&r.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	f.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "Limit the CPU real-time period in microseconds")
	f.Int64Var(&r.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Limit the CPU real-time runtime in microseconds")
	f.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.StringVar(&r.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.VarP(&memory, "memory", "m", "Memory limit")
	f.Var(&reservation, "memory-reservation", "Memory soft limit")
	f.Var(&swap, "memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	f.StringVar(&restart, "restart", "", "Restart policy to apply when a container exits")
	f.StringArrayVar(&huge, "hugetlb-limit", nil, `How much of the host's huge pages may be used, instead of what was said before ("2MB=64m", "": no limits)`)
	f.Int64Var(&pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	f.Var(&cpus, "cpus", "Number of CPUs")
	f.StringArrayVar(&publish, "publish-add", nil, "Publish a port as -p of run does; the container runs on")
	f.StringArrayVar(&unpublish, "publish-rm", nil, "Take a published port away: the container's port, or what --publish-add or -p said")
	f.StringArrayVar(&egress, "egress", nil, `What the container may send to from now on ("none", "all", "allow=10.0.0.0/8,example.org:443")`)
	f.StringArrayVar(&mounts, "mount-add", nil, "Mount something as --mount of run does; the container runs on")
	f.StringArrayVar(&unmounts, "mount-rm", nil, "Take away what is mounted at this path in the container")
	f.Var(&kernel, "kernel-memory", "Kernel memory limit (deprecated)")
	_ = f.MarkDeprecated("kernel-memory", "and no longer supported by the kernel") // the flag exists
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if f.NFlag() == 0 {
			return errors.New("you must provide one or more flags when using this command")
		}
		ports, err := portChange(publish, unpublish)
		if err != nil {
			return err
		}
		restraint, err := request.Egress(egress)
		if err != nil {
			return err
		}
		added, err := request.Mounts(mounts)
		if err != nil {
			return err
		}
		own := 0
		for _, name := range []string{"publish-add", "publish-rm", "egress", "mount-add", "mount-rm", "hugetlb-limit"} {
			if f.Changed(name) {
				own++
			}
		}
		policy := container.RestartPolicy{}
		if restart != "" {
			if policy, err = opts.ParseRestartPolicy(restart); err != nil {
				return err
			}
		}
		r.Memory, r.MemoryReservation, r.MemorySwap, r.NanoCPUs = memory.Value(), reservation.Value(), swap.Value(), cpus.Value()
		if pids != 0 {
			r.PidsLimit = &pids
		}
		var mu sync.Mutex
		var warnings []string
		err = a.each(ctx, args, func(ctx context.Context, name string) error {
			if len(mounts)+len(unmounts) > 0 {
				change := map[string]any{"Add": added, "Remove": unmounts}
				if err := engine.PostOwn(ctx, ownContainer(name, "mounts"), nil, nil, change, nil); err != nil {
					return ownOf("update --mount-add and --mount-rm", err)
				}
			}
			if f.Changed("publish-add") || f.Changed("publish-rm") {
				if err := engine.PostOwn(ctx, ownContainer(name, "ports"), nil, nil, ports, nil); err != nil {
					return ownPorts(err)
				}
			}
			if f.Changed("egress") {
				err := engine.PostOwn(ctx, ownContainer(name, "egress"), nil, nil, map[string]string{"Policy": restraint}, nil)
				if err != nil {
					return ownOf("update --egress", err)
				}
			}
			if f.Changed("hugetlb-limit") {
				err := engine.PostOwn(ctx, ownContainer(name, "hugetlb"), nil, nil, map[string]string{"Limits": request.HugePages(huge)}, nil)
				if err != nil {
					return ownOf("update --hugetlb-limit", err)
				}
			}
			if own == f.NFlag() {
				return nil
			}
			res, err := engine.ContainerUpdate(ctx, name, client.ContainerUpdateOptions{Resources: &r, RestartPolicy: &policy})
			mu.Lock()
			warnings = append(warnings, res.Warnings...)
			mu.Unlock()
			return err
		})
		if len(warnings) > 0 {
			a.println(strings.Join(warnings, "\n"))
		}
		return err
	})
	return cmd
}

// portChange is the body of a request of Hezi's own.
func portChange(publish, unpublish []string) (map[string]network.PortMap, error) {
	_, add, err := request.Published(publish)
	if err != nil {
		return nil, err
	}
	_, remove, err := request.Published(unpublish)
	if err != nil {
		return nil, err
	}
	for p, list := range remove {
		if slices.ContainsFunc(list, func(b network.PortBinding) bool { return b.HostPort == "" && !b.HostIP.IsValid() }) {
			remove[p] = nil // all of the port's
		}
	}
	return map[string]network.PortMap{"Add": add, "Remove": remove}, nil
}

// ownPorts says why another engine cannot do it.
func ownPorts(err error) error {
	if errors.Is(err, endpoint.ErrNotHezi) {
		return fmt.Errorf("hezi update --publish-add and --publish-rm: %w: with Docker's engine, a container that is to have other ports is made anew", err)
	}
	return err
}
