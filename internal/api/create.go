package api

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/engine"
)

// createRequest decodes a create's body as the asked version means it and
// gives it the newest shape.
func createRequest(v apiVersion, raw json.RawMessage) (engine.CreateRequest, error) {
	var r container.CreateRequest
	if err := json.Unmarshal(raw, &r); err != nil {
		return engine.CreateRequest{}, errBadCreate(err)
	}
	if r.Config == nil {
		return engine.CreateRequest{}, errdefs.ErrInvalidArgument.WithMessage("config cannot be empty in order to create a container")
	}
	if r.HostConfig == nil {
		r.HostConfig = &container.HostConfig{}
	}
	if r.NetworkingConfig == nil {
		r.NetworkingConfig = &network.NetworkingConfig{}
	}
	if r.NetworkingConfig.EndpointsConfig == nil {
		r.NetworkingConfig.EndpointsConfig = map[string]*network.EndpointSettings{}
	}
	var old struct{ MacAddress string }
	if err := json.Unmarshal(raw, &old); err != nil {
		return engine.CreateRequest{}, errBadCreate(err)
	}
	olderHostConfig(v, r.HostConfig)
	olderEndpoints(v, r.NetworkingConfig)
	if v < 44 && r.Config.Healthcheck != nil {
		r.Config.Healthcheck.StartInterval = 0
	}
	if old.MacAddress != "" && v < 52 {
		if err := containerMAC(&r, old.MacAddress); err != nil {
			return engine.CreateRequest{}, err
		}
	}
	return engine.CreateRequest{Config: r.Config, HostConfig: r.HostConfig, Networking: r.NetworkingConfig}, nil
}

// olderHostConfig ignores what a version did not have yet, and sets what it
// had as default.
func olderHostConfig(v apiVersion, h *container.HostConfig) {
	if v < 25 {
		h.AutoRemove = false // the client removed the container then
	}
	if v < 40 && h.IpcMode.IsEmpty() {
		h.IpcMode = container.IPCModeShareable
	}
	if v < 41 && h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = container.CgroupnsModeHost
	}
	if v < 42 {
		h.ConsoleSize = [2]uint{}
	}
	if v < 43 {
		h.Annotations = nil
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil // all of them mean no limit
	}
	for i := range h.Mounts {
		olderMount(v, &h.Mounts[i])
	}
}

func olderMount(v apiVersion, m *mount.Mount) {
	if b := m.BindOptions; b != nil {
		if v < 40 {
			b.NonRecursive = false
		}
		if v < 42 {
			b.CreateMountpoint = false
		}
		if v < 44 {
			b.ReadOnlyNonRecursive = m.ReadOnly
			b.ReadOnlyForceRecursive = false
		}
	}
	if m.VolumeOptions != nil && v < 45 {
		m.VolumeOptions.Subpath = ""
	}
	if m.TmpfsOptions != nil && v < 46 {
		m.TmpfsOptions.Options = nil
	}
}

func olderEndpoints(v apiVersion, n *network.NetworkingConfig) {
	for _, ep := range n.EndpointsConfig {
		if ep == nil {
			continue
		}
		if v < 44 {
			ep.MacAddress = nil
		}
		if v < 48 {
			ep.GwPriority = 0
		}
	}
}

// containerMAC moves the container-wide MAC address of before 1.52 to the
// endpoint of the container's network.
func containerMAC(r *container.CreateRequest, text string) error {
	var mac network.HardwareAddr
	if err := mac.UnmarshalText([]byte(text)); err != nil {
		return invalid(fmt.Sprintf("invalid MAC address %q", text), err)
	}
	mode := r.HostConfig.NetworkMode
	if mode.IsHost() || mode.IsContainer() || mode.IsNone() {
		return errdefs.ErrInvalidArgument.WithMessage("conflicting options: mac-address and the network mode")
	}
	name := mode.NetworkName()
	if name == "" || name == network.NetworkDefault {
		name = network.NetworkBridge
	}
	ep := r.NetworkingConfig.EndpointsConfig[name]
	if ep == nil {
		ep = &network.EndpointSettings{}
		r.NetworkingConfig.EndpointsConfig[name] = ep
	}
	ep.MacAddress = mac
	return nil
}
