package cli

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hezi/internal/cli/endpoint"
)

func newUpdate(a *App) *cobra.Command {
	r := container.Resources{}
	var memory, reservation, kernel opts.MemBytes
	var swap opts.MemSwapBytes
	var cpus opts.NanoCPUs
	var restart string
	var pids int64
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
	f.Int64Var(&pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	f.Var(&cpus, "cpus", "Number of CPUs")
	f.Var(&kernel, "kernel-memory", "Kernel memory limit (deprecated)")
	_ = f.MarkDeprecated("kernel-memory", "and no longer supported by the kernel") // the flag exists
	cmd.RunE = a.run(func(ctx context.Context, engine *endpoint.Connection, args []string) error {
		if f.NFlag() == 0 {
			return errors.New("you must provide one or more flags when using this command")
		}
		policy := container.RestartPolicy{}
		if restart != "" {
			var err error
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
		err := a.each(ctx, args, func(ctx context.Context, name string) error {
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
