package api

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"

	hostnet "hezi/internal/network"
)

// What older versions of the API expect, by docs/CHANGELOG.md of
// github.com/moby/moby/api: answers of the newest shape are given the fields
// that clients of the asked version read.

// object is a JSON object being given older fields.
type object = map[string]any

// objectOf turns an answer into an object. Its marshalling was ours and
// cannot fail; an answer that is no object is left as it is.
func objectOf(v any) (object, bool) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, false
	}
	var o object
	return o, json.Unmarshal(body, &o) == nil && o != nil
}

// listedImage is an image's line with Hezi's own LastUsed, Unix seconds.
type listedImage struct {
	imagetypes.Summary
	VirtualSize *int64 `json:"VirtualSize,omitempty"`
	LastUsed    int64  `json:"LastUsed,omitempty"`
}

// imagesFor: VirtualSize until 1.43, Containers -1 until 1.50, no Descriptor
// before 1.48.
func imagesFor(v apiVersion, list []imagetypes.Summary, used map[string]time.Time) []listedImage {
	out := make([]listedImage, len(list))
	for i, s := range list {
		if v < 51 {
			s.Containers = -1
		}
		if v < 48 {
			s.Descriptor = nil
		}
		if v < 47 {
			s.Manifests = nil
		}
		out[i].Summary = s
		if v < 44 {
			out[i].VirtualSize = &out[i].Size
		}
		if at := used[s.ID]; !at.IsZero() {
			out[i].LastUsed = at.Unix()
		}
	}
	return out
}

// briefImage is what hezi's own list of images shows of a summary. A client asks
// for it with the header Hezi-Brief, which Docker ignores: what it reads has the
// same names in the whole answer, which is thrice as long.
type briefImage struct {
	ID         string `json:"Id"`
	RepoTags   []string
	Size       int64
	Containers int64
	Manifests  []briefManifest `json:",omitempty"`
}

type briefManifest struct {
	ID        string
	Kind      imagetypes.ManifestKind
	Size      struct{ Content, Total int64 }
	ImageData *imagetypes.ImageProperties `json:",omitempty"`
}

func briefly(list []imagetypes.Summary) []briefImage {
	out := make([]briefImage, len(list))
	for i := range list {
		s := &list[i]
		out[i] = briefImage{ID: s.ID, RepoTags: s.RepoTags, Size: s.Size, Containers: s.Containers, Manifests: make([]briefManifest, len(s.Manifests))}
		for j := range s.Manifests {
			m := &s.Manifests[j]
			out[i].Manifests[j] = briefManifest{ID: m.ID, Kind: m.Kind, Size: struct{ Content, Total int64 }(m.Size), ImageData: m.ImageData}
		}
	}
	return out
}

// imageRow is the line of `hezi images` alone, for the header Hezi-Brief with the
// value "row": a third of a briefImage. Content and Used are of all manifests.
type imageRow struct {
	ID            string `json:"Id"`
	RepoTags      []string
	Size, Content int64 // bytes
	Containers    int64
	Used          bool `json:",omitempty"`
}

func rows(list []imagetypes.Summary) []imageRow {
	out := make([]imageRow, len(list))
	for i := range list {
		s := &list[i]
		r := imageRow{ID: s.ID, RepoTags: s.RepoTags, Size: s.Size, Containers: s.Containers}
		for j := range s.Manifests {
			m := &s.Manifests[j]
			r.Content += m.Size.Content
			r.Used = r.Used || m.Kind == imagetypes.ManifestKindImage && m.ImageData != nil && len(m.ImageData.Containers) > 0
		}
		out[i] = r
	}
	return out
}

// inspectedImage has Hezi's own LastUsed beside LastTagTime.
type inspectedImage struct {
	imagetypes.InspectResponse
	Metadata struct {
		imagetypes.Metadata
		LastUsed *time.Time `json:"LastUsed,omitempty"`
	}
}

// imageFor: until 1.51 GraphDriver and empty fields of the image's configuration
// were there, until 1.49 those of a container's too, until 1.44 ContainerConfig and until
// 1.43 VirtualSize.
func imageFor(v apiVersion, resp imagetypes.InspectResponse, used time.Time) any {
	if v < 48 {
		resp.Descriptor, resp.Manifests = nil, nil
	}
	if v >= 52 {
		resp.GraphDriver = nil // only for Docker's older kind of store
	}
	shown := inspectedImage{InspectResponse: resp}
	shown.Metadata.Metadata = resp.Metadata
	if !used.IsZero() {
		shown.Metadata.LastUsed = &used
	}
	if v >= 52 {
		return shown
	}
	o, ok := objectOf(shown)
	if !ok {
		return shown
	}
	setDefaults(o, object{"Parent": "", "Comment": "", "DockerVersion": "", "Author": ""})
	conf, _ := o["Config"].(object)
	if conf == nil {
		conf = object{}
		o["Config"] = conf
	}
	setDefaults(conf, object{"User": "", "WorkingDir": "", "Env": nil, "Cmd": nil, "Entrypoint": nil, "Labels": nil, "OnBuild": nil, "Volumes": nil})
	if v < 50 {
		setDefaults(conf, object{"Hostname": "", "Domainname": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Image": ""})
	}
	if v < 45 {
		o["Container"] = ""
		o["ContainerConfig"] = container.Config{}
	}
	if v < 44 {
		o["VirtualSize"] = resp.Size
	}
	return o
}

func setDefaults(o, defaults object) {
	for key, value := range defaults {
		if _, ok := o[key]; !ok {
			o[key] = value
		}
	}
}

// summariesFor: Health came with 1.52, ImageManifestDescriptor with 1.48,
// annotations with 1.46; the rest is as it was in 1.24.
func summariesFor(v apiVersion, list []container.Summary) []container.Summary {
	list = nonNil(list)
	for i := range list {
		if v < 52 {
			list[i].Health = nil
		}
		if v < 48 {
			list[i].ImageManifestDescriptor = nil
		}
		if v < 46 {
			list[i].HostConfig.Annotations = nil
		}
	}
	return list
}

// inspectFor: until 1.51 NetworkSettings had the default network's endpoint
// beside the map of endpoints, and Config had MacAddress and OnBuild.
func inspectFor(v apiVersion, resp container.InspectResponse) any {
	if v < 48 {
		resp.ImageManifestDescriptor = nil
	}
	if v >= 52 {
		return resp
	}
	o, ok := objectOf(resp)
	if !ok {
		return resp
	}
	mac := ""
	if settings, ok := o["NetworkSettings"].(object); ok {
		mac = legacyEndpoint(settings)
	}
	if conf, ok := o["Config"].(object); ok {
		setDefaults(conf, object{"OnBuild": nil})
		if v < 44 && mac != "" {
			setDefaults(conf, object{"MacAddress": mac})
		}
	}
	return o
}

// withEgress adds a field of Hezi's own to what is told of a container that a policy holds
// for.
func withEgress(told any, e *hostnet.Egress) any {
	if e == nil {
		return told
	}
	switch told := told.(type) {
	case object:
		told["Egress"] = e
	case container.InspectResponse:
		return struct {
			container.InspectResponse
			Egress *hostnet.Egress
		}{told, e}
	}
	return told
}

// legacyEndpoint copies the endpoint of the network "bridge" to where clients
// of before 1.9 look for it, and returns its MAC address.
func legacyEndpoint(settings object) (mac string) {
	maps.Copy(settings, object{
		"Bridge": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
		"SecondaryIPAddresses": nil, "SecondaryIPv6Addresses": nil,
		"EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
		"IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
	})
	networks, _ := settings["Networks"].(object)
	bridge, _ := networks["bridge"].(object)
	for _, key := range []string{"EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPAddress", "IPPrefixLen", "IPv6Gateway", "MacAddress"} {
		if value, ok := bridge[key]; ok && value != nil {
			settings[key] = value
		}
	}
	mac, _ = bridge["MacAddress"].(string)
	return mac
}

// infoFor: the fields that were always there and that older clients of typed
// languages need.
func infoFor(v apiVersion, info system.Info) any {
	if v >= 50 {
		return info
	}
	o, ok := objectOf(info)
	if !ok {
		return info
	}
	o["BridgeNfIptables"], o["BridgeNfIp6tables"] = false, false
	delete(o, "DiscoveredDevices")
	if v < 49 {
		delete(o, "FirewallBackend")
		for _, key := range []string{"ContainerdCommit", "RuncCommit", "InitCommit"} {
			if commit, ok := o[key].(object); ok {
				commit["Expected"] = commit["ID"]
			}
		}
	}
	if v < 42 {
		o["KernelMemory"], o["KernelMemoryTCP"] = false, false
	}
	return o
}

// eventFor: until 1.51 a container's or image's event had its parts at the top too.
func eventFor(v apiVersion, m events.Message) any {
	type older struct {
		Status string `json:"status,omitempty"`
		ID     string `json:"id,omitempty"`
		From   string `json:"from,omitempty"`
		events.Message
	}
	if v >= 52 || m.Type != events.ContainerEventType && m.Type != events.ImageEventType {
		return m
	}
	return older{Status: string(m.Action), ID: m.Actor.ID, From: m.Actor.Attributes["image"], Message: m}
}

// errBadCreate wraps what is wrong with a create's body.
func errBadCreate(err error) error {
	if errdefs.IsInvalidArgument(err) {
		return err
	}
	return invalid("invalid JSON", err)
}
