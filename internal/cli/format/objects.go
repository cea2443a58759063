package format

import (
	"strconv"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
)

// NetworkHeaders are the columns of `network ls`.
var NetworkHeaders = Headers{
	"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
	"Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
}

// NetworkSource completes the format of `network ls`.
func NetworkSource(source string, quiet bool) string {
	switch {
	case source == "raw" && quiet:
		return "network_id: {{.ID}}"
	case source == "raw":
		return "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n"
	case source != "" && source != "table":
		return source
	case quiet:
		return "{{.ID}}"
	}
	return "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
}

// Network is a row of `network ls`.
type Network struct {
	n     network.Summary
	trunc bool
}

// Networks makes the rows of `network ls`.
func Networks(list []network.Summary, trunc bool) []*Network {
	rows := make([]*Network, len(list))
	for i, n := range list {
		rows[i] = &Network{n, trunc}
	}
	return rows
}

// MarshalJSON prints all fields.
func (n *Network) MarshalJSON() ([]byte, error) { return Fields(n) }

// ID is the identifier.
func (n *Network) ID() string { return shownID(n.n.ID, n.trunc) }

// Name is the name.
func (n *Network) Name() string { return n.n.Name }

// Driver is the driver.
func (n *Network) Driver() string { return n.n.Driver }

// Scope is local, or swarm.
func (n *Network) Scope() string { return n.n.Scope }

// IPv4 says whether it has IPv4.
func (n *Network) IPv4() string { return strconv.FormatBool(n.n.EnableIPv4) }

// IPv6 says whether it has IPv6.
func (n *Network) IPv6() string { return strconv.FormatBool(n.n.EnableIPv6) }

// Internal says whether it has no way out.
func (n *Network) Internal() string { return strconv.FormatBool(n.n.Internal) }

// Labels are all labels, sorted.
func (n *Network) Labels() string { return Labels(n.n.Labels) }

// Label is one label's value.
func (n *Network) Label(name string) string { return n.n.Labels[name] }

// CreatedAt is when it was made.
func (n *Network) CreatedAt() string { return n.n.Created.String() }

// VolumeHeaders are the columns of `volume ls`.
var VolumeHeaders = Headers{
	"Name": "VOLUME NAME", "Group": "GROUP", "Driver": "DRIVER", "Scope": "SCOPE", "Availability": "AVAILABILITY",
	"Mountpoint": "MOUNTPOINT", "Labels": "LABELS", "Links": "LINKS", "Size": "SIZE", "Status": "STATUS",
}

// VolumeSource completes the format of `volume ls`.
func VolumeSource(source string, quiet bool) string {
	switch {
	case source == "raw" && quiet:
		return "name: {{.Name}}"
	case source == "raw":
		return "name: {{.Name}}\ndriver: {{.Driver}}\n"
	case source != "" && source != "table":
		return source
	case quiet:
		return "{{.Name}}"
	}
	return "table {{.Driver}}\t{{.Name}}"
}

// Volume is a row of `volume ls`.
type Volume struct{ v volume.Volume }

// Volumes makes the rows of `volume ls`.
func Volumes(list []volume.Volume) []*Volume {
	rows := make([]*Volume, len(list))
	for i, v := range list {
		rows[i] = &Volume{v}
	}
	return rows
}

// MarshalJSON prints all fields.
func (v *Volume) MarshalJSON() ([]byte, error) { return Fields(v) }

// Name is the name.
func (v *Volume) Name() string { return v.v.Name }

// Driver is the driver.
func (v *Volume) Driver() string { return v.v.Driver }

// Scope is local, or global.
func (v *Volume) Scope() string { return v.v.Scope }

// Mountpoint is where it lies on the engine's host.
func (v *Volume) Mountpoint() string { return v.v.Mountpoint }

// Labels are all labels, sorted.
func (v *Volume) Labels() string { return Labels(v.v.Labels) }

// Label is one label's value.
func (v *Volume) Label(name string) string { return v.v.Labels[name] }

// Links counts the containers that use it, where the engine tells.
func (v *Volume) Links() string {
	if v.v.UsageData == nil {
		return "N/A"
	}
	return strconv.FormatInt(v.v.UsageData.RefCount, 10)
}

// Size is its size, where the engine tells.
func (v *Volume) Size() string {
	if v.v.UsageData == nil {
		return "N/A"
	}
	return units.HumanSize(float64(v.v.UsageData.Size))
}

// Group is of cluster volumes only.
func (v *Volume) Group() string {
	if v.v.ClusterVolume == nil {
		return "N/A"
	}
	return v.v.ClusterVolume.Spec.Group
}

// Availability is of cluster volumes only.
func (v *Volume) Availability() string {
	if v.v.ClusterVolume == nil {
		return "N/A"
	}
	return string(v.v.ClusterVolume.Spec.Availability)
}

// Status is of cluster volumes only.
func (v *Volume) Status() string {
	if v.v.ClusterVolume == nil || v.v.ClusterVolume.Info == nil || v.v.ClusterVolume.Info.VolumeID == "" {
		return "N/A"
	}
	return "created"
}

// ContextHeaders are the columns of `context ls`.
var ContextHeaders = Headers{"Name": "NAME", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT", "Error": "ERROR"}

// ContextSource completes the format of `context ls`.
func ContextSource(source string, quiet bool) string {
	switch {
	case quiet:
		return "{{.Name}}"
	case source != "" && source != "table":
		return source
	}
	return "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
}

// Context is a row of `context ls`.
type Context struct {
	name, description, host, err string
	current                      bool
}

// NewContext makes a row of `context ls`.
func NewContext(name, description, host string, current bool, err error) *Context {
	c := &Context{name: name, description: description, host: host, current: current}
	if err != nil {
		c.err = err.Error()
	}
	return c
}

// MarshalJSON prints all fields.
func (c *Context) MarshalJSON() ([]byte, error) { return Fields(c) }

// Name is the name.
func (c *Context) Name() string { return c.name }

// Description is what its user wrote.
func (c *Context) Description() string { return c.description }

// DockerEndpoint is the engine's address.
func (c *Context) DockerEndpoint() string { return c.host }

// Current says whether it is in use.
func (c *Context) Current() bool { return c.current }

// Error says why it cannot be used.
func (c *Context) Error() string { return Ellipsis(c.err, 45) }
