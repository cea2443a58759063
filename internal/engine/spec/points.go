package spec

import (
	"fmt"
	"path"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Point is one mount that a user or an image asked for, before volumes are made.
type Point struct {
	Type        mount.Type // bind, volume, tmpfs or image
	Source      string     // host path, volume name ("" is an anonymous one), or image
	Target      string
	ReadOnly    bool
	NoCopy      bool
	Create      bool // make a missing bind source, as -v does
	Propagation string
	Mode        string // as inspect shows it
	Data        string // tmpfs options
	Owners      string `json:",omitempty"` // how a bind's owners are mapped, see users.Owners

	Give          bool              `json:",omitempty"` // bind and volume: to the container's user
	NonRecursive  bool              `json:",omitempty"` // bind: without the mounts below its source
	ReadOnlyTop   bool              `json:",omitempty"` // bind: read-only does not hold for the mounts below
	Subpath       string            `json:",omitempty"` // volume and image: what below its root is mounted
	Inherited     bool              `json:",omitempty"` // by --volumes-from
	Anonymous     bool              `json:",omitempty"` // volume: it goes with its last container
	Driver        string            `json:",omitempty"` // volume: of one that is made
	DriverOptions map[string]string `json:",omitempty"`
	Labels        map[string]string `json:",omitempty"`
	Image         *PointImage       `json:",omitempty"` // image: what Source was at create
}

// PointImage is an image that is mounted.
type PointImage struct {
	ID       digest.Digest
	Manifest ocispec.Descriptor
	Layers   []digest.Digest
}

// Points reads -v, --mount, --tmpfs and the image's volumes. What --volumes-from
// brings (from) gives way to them, but for the image's volumes. With readOnlyTop,
// read-only binds are not read-only for the mounts below.
func Points(c *container.Config, h *container.HostConfig, from []Point, readOnlyTop bool) ([]Point, error) {
	var points []Point
	for _, b := range h.Binds {
		p, err := parseBind(b)
		if err != nil {
			return nil, err
		}
		p.Driver = volumeDriver(p, h)
		points = append(points, p)
	}
	for _, m := range h.Mounts {
		p, err := parseMount(m)
		if err != nil {
			return nil, err
		}
		points = append(points, p)
	}
	for target, data := range h.Tmpfs {
		points = append(points, Point{Type: mount.TypeTmpfs, Target: target, Data: data})
	}
	seen := map[string]bool{}
	for i := range points {
		p := &points[i]
		var err error
		if p.Target, err = Target(p.Target); err != nil {
			return nil, err
		}
		if seen[p.Target] {
			return nil, invalid("Duplicate mount point: %s: give each container path once", p.Target)
		}
		seen[p.Target] = true
		p.ReadOnlyTop = p.ReadOnlyTop || readOnlyTop && p.Type == mount.TypeBind && p.ReadOnly
		if p.Type != mount.TypeTmpfs {
			continue
		}
		if _, err := Tmpfs(*p); err != nil {
			return nil, err
		}
	}
	for _, p := range from {
		if !seen[p.Target] {
			seen[p.Target] = true
			points = append(points, p)
		}
	}
	for v := range c.Volumes {
		v, err := Target(v)
		if err != nil {
			return nil, err
		}
		if !seen[v] {
			p := Point{Type: mount.TypeVolume, Target: v}
			p.Driver = volumeDriver(p, h)
			points = append(points, p)
		}
	}
	return points, nil
}

// volumeDriver is --volume-driver for the volumes that it is about.
func volumeDriver(p Point, h *container.HostConfig) string {
	if p.Type == mount.TypeVolume {
		return h.VolumeDriver
	}
	return ""
}

// VolumesFrom reads one --volumes-from: a container, and whether what it has
// is mounted read-only.
func VolumesFrom(s string) (ref string, readOnly bool, err error) {
	ref, mode, _ := strings.Cut(s, ":")
	if ref == "" {
		return "", false, invalid("invalid volumes-from specification: '%s': write CONTAINER, CONTAINER:ro or CONTAINER:rw", s)
	}
	if err := readModes(mode, func(m string) string { return commonMode(m, &readOnly) }); err != nil {
		return "", false, invalid("invalid mode: %s: of --volumes-from %s: %v: write CONTAINER, CONTAINER:ro or CONTAINER:rw", mode, s, err)
	}
	return ref, readOnly, nil
}

// readModes reads the options that follow a mount's paths. kind takes one and
// says what of the mount it is about, which only one option may be; "": it is
// none of those that there are.
func readModes(list string, kind func(mode string) string) error {
	seen := map[string]bool{}
	for m := range strings.SplitSeq(list, ",") {
		if m == "" {
			continue
		}
		switch k := kind(m); {
		case k == "":
			return fmt.Errorf("%s is not known", m)
		case seen[k]:
			return fmt.Errorf("%s contradicts or repeats another option", m)
		default:
			seen[k] = true
		}
	}
	return nil
}

// commonMode is the kind of those that every mount takes.
func commonMode(m string, readOnly *bool) string {
	switch m {
	case "rw", "ro":
		*readOnly = m == "ro"
		return "rw"
	case "z", "Z":
		return "z"
	case "cached", "delegated", "consistent": // of Docker Desktop
		return "cached"
	}
	return ""
}

// Inherit is what one --volumes-from takes over of another container's points:
// all but --tmpfs, which are no volumes. A later container's stands before an
// earlier one's at the same path.
func Inherit(to, theirs []Point, readOnly bool) []Point {
	for _, p := range theirs {
		if p.Type == mount.TypeTmpfs {
			continue
		}
		p.ReadOnly, p.NoCopy, p.Create, p.Inherited = p.ReadOnly || readOnly, true, false, true
		p.Mode, p.Give = "", false // of the one that asked
		out := to[:0:0]
		for _, q := range to {
			if path.Clean(q.Target) != p.Target {
				out = append(out, q)
			}
		}
		to = append(out, p)
	}
	return to
}
