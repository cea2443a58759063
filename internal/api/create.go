package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"hezi/internal/engine"
	"hezi/internal/version"
)

// createBody is a create's body with what older versions had.
type createBody struct {
	container.CreateRequest
	Cmd, Entrypoint words
	MacAddress      string // until 1.51
}

// words are a command line: a list, or one string that is one word.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if len(b) > 0 && b[0] == '"' {
		err := json.Unmarshal(b, &one)
		*w = words{one}
		return err
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// createRequest decodes a create's body as the asked version means it and
// gives it the newest shape. What has no effect is a warning.
func createRequest(v apiVersion, raw json.RawMessage) (_ engine.CreateRequest, warnings []string, _ error) {
	var r createBody
	if err := json.Unmarshal(raw, &r); err != nil {
		return engine.CreateRequest{}, nil, errBadCreate(err)
	}
	if r.Config == nil {
		return engine.CreateRequest{}, nil, errdefs.ErrInvalidArgument.WithMessage("config cannot be empty in order to create a container")
	}
	r.Config.Cmd, r.Config.Entrypoint = r.Cmd, r.Entrypoint
	if r.HostConfig == nil {
		r.HostConfig = &container.HostConfig{}
	}
	if r.NetworkingConfig == nil {
		r.NetworkingConfig = &network.NetworkingConfig{}
	}
	if r.NetworkingConfig.EndpointsConfig == nil {
		r.NetworkingConfig.EndpointsConfig = map[string]*network.EndpointSettings{}
	}
	warnings, err := unknownFields(v, raw)
	if err != nil {
		return engine.CreateRequest{}, nil, errBadCreate(err)
	}
	warnings = append(warnings, fillBindings(r.HostConfig)...)
	if err := olderHostConfig(v, r.HostConfig); err != nil {
		return engine.CreateRequest{}, nil, err
	}
	if v >= 48 {
		warnings = append(warnings, passedOverDriver(r.HostConfig)...)
	}
	olderEndpoints(v, r.NetworkingConfig)
	if v < 44 && r.Config.Healthcheck != nil {
		r.Config.Healthcheck.StartInterval = 0
	}
	if r.MacAddress != "" && v < 52 {
		if err := containerMAC(&r.CreateRequest, r.MacAddress); err != nil {
			return engine.CreateRequest{}, nil, err
		}
	}
	return engine.CreateRequest{Config: r.Config, HostConfig: r.HostConfig, Networking: r.NetworkingConfig, ReadOnlyTop: v < 44, HostCgroups: v < 41}, warnings, nil
}

// unknownFields warns of settings that the API has not, or has no longer: they
// are tolerated, as Docker tolerates them, but not in silence.
func unknownFields(v apiVersion, raw json.RawMessage) ([]string, error) {
	var top, host map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, err
	}
	known := fieldNames(reflect.TypeFor[container.CreateRequest]())
	known["macaddress"] = v < 52
	warnings := unknownIn("", top, known)
	for key, value := range top {
		if !strings.EqualFold(key, "HostConfig") {
			continue
		}
		if err := json.Unmarshal(value, &host); err != nil {
			return nil, err
		}
		warnings = append(warnings, unknownIn("HostConfig.", host, fieldNames(reflect.TypeFor[container.HostConfig]()))...)
	}
	return warnings, nil
}

func unknownIn(prefix string, fields map[string]json.RawMessage, known map[string]bool) (warnings []string) {
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch string(fields[key]) {
		case "null", "false", "0", `""`, "[]", "{}": // what clients of older versions send for what is not set
			continue
		}
		if !known[strings.ToLower(key)] {
			warnings = append(warnings, fmt.Sprintf("%s%s is no setting of API version %s and has no effect", prefix, key, version.API))
		}
	}
	return warnings
}

// fieldNames are the JSON names of a struct, in small letters.
func fieldNames(t reflect.Type) map[string]bool {
	names := map[string]bool{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch inner := f.Type; {
		case f.Anonymous && name == "":
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			maps.Copy(names, fieldNames(inner))
		case name != "":
			names[strings.ToLower(name)] = true
		default:
			names[strings.ToLower(f.Name)] = true
		}
	}
	return names
}

// fillBindings lets an empty list of bindings be any port of the host, as
// Docker does with a warning since 1.52.
func fillBindings(h *container.HostConfig) (warnings []string) {
	for port, list := range h.PortBindings {
		if len(list) == 0 {
			h.PortBindings[port] = []network.PortBinding{{}}
			warnings = append(warnings, fmt.Sprintf("Following container port(s) have an empty list of port-bindings: %s. It is published on any free port; say so with an empty HostPort.", port))
		}
	}
	return warnings
}

// passedOverDriver warns of a --volume-driver that is not the one of --mount's volumes.
func passedOverDriver(h *container.HostConfig) []string {
	if h.VolumeDriver == "" {
		return nil
	}
	for _, m := range h.Mounts {
		if o := m.VolumeOptions; m.Type == mount.TypeVolume && (o == nil || o.DriverConfig == nil || o.DriverConfig.Name == "") {
			return []string{"WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead"}
		}
	}
	return nil
}

// olderHostConfig ignores what a version did not have yet, and sets what it
// had as default. What would change the meaning of a mount is an error.
func olderHostConfig(v apiVersion, h *container.HostConfig) error {
	if v < 25 {
		h.AutoRemove = false // the client removed the container then
	}
	if v < 40 && h.IpcMode.IsEmpty() {
		h.IpcMode = container.IPCModeShareable
	}
	if v < 42 {
		h.ConsoleSize = [2]uint{}
	}
	if v < 43 {
		h.Annotations = nil
	}
	if v < 56 {
		h.Umask = nil
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil // all of them mean no limit
	}
	for i := range h.Mounts {
		if err := olderMount(v, &h.Mounts[i]); err != nil {
			return err
		}
	}
	return nil
}

func olderMount(v apiVersion, m *mount.Mount) error {
	needs := func(what string, than int) error {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s needs API v1.%d or newer", what, than))
	}
	if v < 42 { // not looked at then
		if m.Type != mount.TypeVolume {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs {
			m.TmpfsOptions = nil
		}
	}
	if b := m.BindOptions; b != nil {
		if v < 40 {
			b.NonRecursive = false
		}
		if v < 42 {
			b.CreateMountpoint = false
		}
		if v < 44 && b.ReadOnlyForceRecursive {
			return needs("BindOptions.ReadOnlyForceRecursive", 44)
		}
	}
	if v < 45 && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" {
		return needs("VolumeOptions.Subpath", 45)
	}
	if v < 46 && m.TmpfsOptions != nil {
		m.TmpfsOptions.Options = nil
	}
	if v < 48 && m.Type == mount.TypeImage {
		return needs(`Mount type "Image"`, 48)
	}
	return nil
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
