package format

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ContainerHeaders are the columns of `ps`.
var ContainerHeaders = Headers{
	"ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
	"RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS",
	"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM", "HealthStatus": "HEALTH STATUS",
}

const (
	containerTable = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
	containerRaw   = `container_id: {{.ID}}
image: {{.Image}}
command: {{.Command}}
created_at: {{.CreatedAt}}
state: {{- pad .State 1 0}}
status: {{- pad .Status 1 0}}
names: {{.Names}}
labels: {{- pad .Labels 1 0}}
ports: {{- pad .Ports 1 0}}
`
)

// ContainerSource completes the format of `ps`.
func ContainerSource(source string, quiet, size bool) string {
	switch {
	case source == "raw" && quiet:
		return "container_id: {{.ID}}"
	case quiet:
		return "{{.ID}}"
	case source == "raw" && size:
		return containerRaw + "size: {{.Size}}\n"
	case source == "raw":
		return containerRaw
	case source != "" && source != "table":
		return source
	case size:
		return containerTable + "\t{{.Size}}"
	}
	return containerTable
}

// NeedsSize says whether a format asks for the size, which costs the engine
// time to know.
func NeedsSize(source string) (bool, error) {
	tmpl, err := Template(source)
	if err != nil {
		return false, err
	}
	probe := &Container{}
	if err := tmpl.Execute(discard{}, probe); err != nil {
		return false, fmt.Errorf("failed to execute template: %w", err)
	}
	return probe.sizeAsked && source != "json", nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Container is a row of `ps`.
type Container struct {
	c         container.Summary
	trunc     bool
	now       time.Time
	sizeAsked bool
}

// Containers makes the rows of `ps`; trunc shortens IDs, commands and names.
func Containers(list []container.Summary, trunc bool, now time.Time) []*Container {
	rows := make([]*Container, len(list))
	for i, c := range list {
		rows[i] = &Container{c: c, trunc: trunc, now: now}
	}
	return rows
}

// MarshalJSON prints all fields.
func (c *Container) MarshalJSON() ([]byte, error) { return Fields(c) }

// ID is the identifier.
func (c *Container) ID() string { return shownID(c.c.ID, c.trunc) }

// Names are all names, or the first one that is not a link's.
func (c *Container) Names() string {
	var names []string
	for _, n := range c.c.Names {
		n = strings.TrimPrefix(n, "/")
		if !c.trunc {
			names = append(names, n)
		} else if !strings.Contains(n, "/") {
			return n
		}
	}
	return strings.Join(names, ",")
}

// Image is the image's name as the user writes it.
func (c *Container) Image() string {
	if c.c.Image == "" {
		return "<no image>"
	}
	if !c.trunc {
		return c.c.Image
	}
	if short := ShortID(c.c.ImageID); short == ShortID(c.c.Image) {
		return short
	}
	ref, err := reference.ParseNormalizedNamed(c.c.Image)
	if err != nil {
		return c.c.Image
	}
	if _, ok := ref.(reference.Digested); ok {
		name := reference.TrimNamed(ref)
		if tagged, ok := ref.(reference.Tagged); ok {
			if withTag, err := reference.WithTag(name, tagged.Tag()); err == nil {
				name = withTag
			}
		}
		ref = name
	}
	return reference.FamiliarString(ref)
}

// Command is the quoted command line.
func (c *Container) Command() string {
	if c.trunc {
		return strconv.Quote(Ellipsis(c.c.Command, 20))
	}
	return strconv.Quote(c.c.Command)
}

// CreatedAt is the time of creation.
func (c *Container) CreatedAt() string { return time.Unix(c.c.Created, 0).String() }

// RunningFor is how long ago it was created.
func (c *Container) RunningFor() string { return Ago(c.now, c.c.Created) }

// Ports are the exposed and published ports.
func (c *Container) Ports() string { return Ports(c.c.Ports) }

// State is one word: running, exited, ...
func (c *Container) State() string { return string(c.c.State) }

// Status is the state with its time.
func (c *Container) Status() string { return c.c.Status }

// Size is what the container wrote, and the whole with its image.
func (c *Container) Size() string {
	c.sizeAsked = true
	s := units.HumanSizeWithPrecision(float64(c.c.SizeRw), 3)
	if c.c.SizeRootFs > 0 {
		s += fmt.Sprintf(" (virtual %s)", units.HumanSizeWithPrecision(float64(c.c.SizeRootFs), 3))
	}
	return s
}

// Labels are all labels, sorted.
func (c *Container) Labels() string { return Labels(c.c.Labels) }

// Label is one label's value.
func (c *Container) Label(name string) string { return c.c.Labels[name] }

// Mounts are the volumes' names and the binds' sources.
func (c *Container) Mounts() string {
	var names []string
	for _, m := range c.c.Mounts {
		name := cmp.Or(m.Name, m.Source)
		if c.trunc {
			name = Ellipsis(name, 15)
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

// LocalVolumes counts the volumes of the driver local.
func (c *Container) LocalVolumes() string {
	n := 0
	for _, m := range c.c.Mounts {
		if m.Driver == "local" {
			n++
		}
	}
	return strconv.Itoa(n)
}

// Networks are the names of the networks, sorted.
func (c *Container) Networks() string {
	if c.c.NetworkSettings == nil {
		return ""
	}
	var names []string
	for name := range c.c.NetworkSettings.Networks {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// Platform is the image's platform where the engine tells it: linux/amd64, or
// an object in JSON.
func (c *Container) Platform() *ImagePlatform {
	if c.c.ImageManifestDescriptor == nil || c.c.ImageManifestDescriptor.Platform == nil {
		return nil
	}
	return &ImagePlatform{*c.c.ImageManifestDescriptor.Platform}
}

// ImagePlatform is a platform that prints as os/architecture/variant.
type ImagePlatform struct{ ocispec.Platform }

func (p ImagePlatform) String() string { return Platform(p.OS, p.Architecture, p.Variant) }

// HealthStatus is one word, or nothing without a health check.
func (c *Container) HealthStatus() string {
	if c.c.Health != nil && c.c.Health.Status != "" {
		return string(c.c.Health.Status)
	}
	// Before API 1.52 it is told in the status only: "Up 5 minutes (healthy)".
	_, health, ok := strings.Cut(c.c.Status, "(")
	health = strings.TrimPrefix(strings.TrimSuffix(health, ")"), "health: ")
	switch container.HealthStatus(health) {
	case container.Healthy, container.Unhealthy, container.Starting:
		if ok {
			return health
		}
	}
	return ""
}

// Platform joins os/architecture/variant.
func Platform(os, arch, variant string) string {
	if variant != "" {
		return os + "/" + arch + "/" + variant
	}
	return os + "/" + arch
}

// Ago says how long ago a time in Unix seconds was.
func Ago(now time.Time, seconds int64) string {
	return units.HumanDuration(now.Sub(time.Unix(seconds, 0))) + " ago"
}

// Labels joins labels, sorted.
func Labels(labels map[string]string) string {
	var all []string
	for k, v := range labels {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// Ports joins ports as `ps` shows them; neighbours become ranges.
func Ports(list []container.PortSummary) string {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.Type, b.Type))
	})
	type key struct{ ip, proto string }
	type span struct{ first, last uint16 }
	open := map[key]*span{}
	var order []key
	var result, mapped []string
	for _, p := range list {
		k := key{proto: p.Type}
		if p.IP.IsValid() {
			if p.PublicPort != p.PrivatePort {
				mapped = append(mapped, fmt.Sprintf("%s->%d/%s", Place(p.IP, p.PublicPort), p.PrivatePort, p.Type))
				continue
			}
			k.ip = Address(p.IP)
		}
		switch s := open[k]; {
		case s == nil:
			open[k] = &span{p.PrivatePort, p.PrivatePort}
			order = append(order, k)
		case p.PrivatePort == s.last+1:
			s.last = p.PrivatePort
		default:
			result = append(result, portRange(k.ip, k.proto, s.first, s.last))
			open[k] = &span{p.PrivatePort, p.PrivatePort}
		}
	}
	for _, k := range order {
		result = append(result, portRange(k.ip, k.proto, open[k].first, open[k].last))
	}
	return strings.Join(append(result, mapped...), ", ")
}

func portRange(ip, proto string, first, last uint16) string {
	ports := strconv.Itoa(int(first))
	if last != first {
		ports += "-" + strconv.Itoa(int(last))
	}
	if ip != "" {
		ports = net.JoinHostPort(ip, ports) + "->" + ports
	}
	return ports + "/" + proto
}
