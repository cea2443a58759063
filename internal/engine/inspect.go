package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"hezi/internal/engine/spec"
	"hezi/internal/logs/options"
)

// shownDriver is what keeps a container's file system, in Docker's words.
func (r *record) shownDriver() string {
	if r.driver() == defaultDriver {
		return "overlayfs"
	}
	return r.driver()
}

// Inspect answers GET /containers/{id}/json; size adds what it takes on disk.
func (e *Engine) Inspect(ctx context.Context, ref string, size bool) (container.InspectResponse, error) {
	c, err := e.find(ref)
	if err != nil {
		return container.InspectResponse{}, err
	}
	q, r := query{e}, c.latest.Load()
	path, args := r.program()
	resp := container.InspectResponse{
		ID: r.ID, Created: stamp(r.Created), Path: path, Args: args, State: r.state(), Image: r.ImageID,
		Name: "/" + r.Name, RestartCount: r.Restarts, Driver: r.shownDriver(), Platform: r.Platform,
		ExecIDs: e.index.Running(r.ID), HostConfig: r.hostConfig(), Mounts: q.mountPoints(ctx, r), Config: r.config(), NetworkSettings: q.networkSettings(r),
		AppArmorProfile: e.o.Walls.AppArmorOf(r.HostConfig), ProcessLabel: r.Labels.Process, MountLabel: r.Labels.Files,
		Storage: &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: r.shownDriver()}}},
	}
	slices.Sort(resp.ExecIDs)
	if r.Manifest.Digest != "" {
		manifest := r.Manifest
		resp.ImageManifestDescriptor = &manifest
	}
	if owner := q.filesOwner(r); owner != nil && !owner.Started.IsZero() {
		resp.ResolvConfPath, resp.HostnamePath, resp.HostsPath = e.etcFile(owner, "resolv.conf"), e.etcFile(owner, "hostname"), e.etcFile(owner, "hosts")
	}
	if driver, _ := (output{e.records}).logOptions(r); driver == options.JSONFile && !r.Started.IsZero() { // the one file that others may read
		resp.LogPath = output{e.records}.logFile(r)
	}
	if size {
		rw, root, err := q.sizes(ctx, r)
		if err != nil {
			return container.InspectResponse{}, err
		}
		resp.SizeRw, resp.SizeRootFs = &rw, &root
	}
	return resp, nil
}

// filesOwner is the container whose /etc/hosts and the like a container has:
// its own, or that of the one whose network it uses. nil: that one is gone.
func (q query) filesOwner(r *record) *record {
	if !r.HostConfig.NetworkMode.IsContainer() {
		return r
	}
	c, err := q.e.entry(r.HostConfig.NetworkMode.ConnectedContainer())
	if err != nil {
		return nil
	}
	return c.latest.Load()
}

// stamp writes a time as Docker does; the zero time is the year 1.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (r *record) state() *container.State {
	s := &container.State{
		Status: r.State, Running: r.alive(), Paused: r.State == container.StatePaused, Restarting: r.State == container.StateRestarting,
		OOMKilled: r.OOM, Dead: r.State == container.StateDead, Pid: r.PID, ExitCode: r.Exit, Error: r.Error,
		StartedAt: stamp(r.Started), FinishedAt: stamp(r.Finished),
	}
	if h := r.health(); h != nil {
		s.Health = &container.Health{Status: h.Status, FailingStreak: h.FailingStreak, Log: orEmpty(h.Log)}
	}
	if r.Started.IsZero() { // a start that failed was none
		s.FinishedAt = s.StartedAt
	}
	return s
}

func (r *record) config() *container.Config {
	c := *r.Config
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	if len(c.Volumes) == 0 {
		c.Volumes = nil
	}
	return &c
}

// hostConfig is what was asked for, completed with what that means.
func (r *record) hostConfig() *container.HostConfig {
	h := *r.HostConfig
	if h.PortBindings == nil {
		h.PortBindings = network.PortMap{}
	}
	if h.LogConfig.Config == nil {
		h.LogConfig.Config = map[string]string{}
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	h.MaskedPaths, h.ReadonlyPaths = spec.HiddenPaths(&h)
	h.Links = shownLinks(r)
	// Docker's client makes these lists; scripts count on them.
	h.DNS, h.DNSOptions, h.DNSSearch = orEmpty(h.DNS), orEmpty(h.DNSOptions), orEmpty(h.DNSSearch)
	h.BlkioWeightDevice, h.Devices, h.Ulimits = orEmpty(h.BlkioWeightDevice), orEmpty(h.Devices), orEmpty(h.Ulimits)
	h.BlkioDeviceReadBps, h.BlkioDeviceWriteBps = orEmpty(h.BlkioDeviceReadBps), orEmpty(h.BlkioDeviceWriteBps)
	h.BlkioDeviceReadIOps, h.BlkioDeviceWriteIOps = orEmpty(h.BlkioDeviceReadIOps), orEmpty(h.BlkioDeviceWriteIOps)
	return &h
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (q query) networkSettings(r *record) *container.NetworkSettings {
	s := &container.NetworkSettings{Ports: r.portMap(), Networks: q.endpoints(r)}
	switch {
	case r.Net != nil:
		s.SandboxKey, s.SandboxID = r.Net.Path, stableID(r.ID, r.Net.Path)
	case r.HostConfig.NetworkMode.IsHost() && r.running():
		s.SandboxKey = "/proc/1/ns/net"
		s.SandboxID = stableID("host", s.SandboxKey)
	}
	return s
}

// stableID names what has no id of its own: the same after a restart, as 64
// hex digits.
func stableID(a, b string) string {
	sum := sha256.Sum256([]byte(a + "/" + b))
	return hex.EncodeToString(sum[:])
}

// sizes are the bytes on disk of the container's own layer, and of that and
// its image together.
func (q query) sizes(ctx context.Context, r *record) (rw, root int64, err error) {
	if rw, err = q.e.o.Layers.Size(ctx, r.ID); err != nil {
		return 0, 0, fmt.Errorf("the size of container %s: %w", r.ID, err)
	}
	img, err := q.e.o.Images.RootFS(ctx, r.image())
	if err != nil {
		return 0, 0, fmt.Errorf("the size of the image of container %s: %w", r.ID, err)
	}
	root = rw
	for _, dir := range img.Lower {
		n, err := diskUsage(ctx, dir)
		if err != nil {
			return 0, 0, fmt.Errorf("the size of the image of container %s: %w", r.ID, err)
		}
		root += n
	}
	return rw, root, nil
}

// diskUsage are the bytes of a tree's blocks, hard links once.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	var sum int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[st.Ino] {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			seen[st.Ino] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}
