package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	hostnet "hezi/internal/network"

	"hezi/internal/engine/health"
	"hezi/internal/engine/spec"
)

// query is what the reading verbs share; it changes nothing.
type query struct{ e *Engine }

// List answers GET /containers/json: the newest container first. Without All,
// Limit or a filter by status only those that run, or are about to again.
// Errors: InvalidArgument for a filter, NotFound for a container of before or since.
func (e *Engine) List(ctx context.Context, o ListOptions) ([]container.Summary, error) {
	q := query{e}
	conditions, err := q.listConditions(ctx, o.Filters)
	if err != nil {
		return nil, err
	}
	all := o.All || o.Limit > 0 || len(o.Filters["status"]) > 0
	records := slices.DeleteFunc(e.settled(), func(r *record) bool {
		return !all && !r.alive() || slices.ContainsFunc(conditions, func(ok condition) bool { return !ok(r) })
	})
	slices.SortFunc(records, newestFirst)
	if o.Limit > 0 && len(records) > o.Limit {
		records = records[:o.Limit]
	}
	now, shown := time.Now(), map[string]string{}
	list := make([]container.Summary, 0, len(records))
	for _, r := range records {
		s := q.summary(ctx, r, now)
		s.Image = q.imageShown(ctx, r, shown)
		if o.Size {
			if s.SizeRw, s.SizeRootFs, err = q.sizes(ctx, r); errdefs.IsNotFound(err) {
				continue // removed while the list was made
			} else if err = q.unknownSize(ctx, r, err); err != nil {
				return nil, err
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// unknownSize lets one container, whose files cannot be read, spoil no list: it is shown
// with what is known of its size.
func (q query) unknownSize(ctx context.Context, r *record, err error) error {
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	q.e.o.Log.Warn("the size of a container cannot be told, and is shown as 0", "container", r.ID, "error", err)
	return nil
}

// alive says whether Docker calls the container running: it has a process, or
// a restart is due.
func (r *record) alive() bool { return r.running() || r.State == container.StateRestarting }

func (q query) summary(ctx context.Context, r *record, now time.Time) container.Summary {
	path, args := r.program()
	s := container.Summary{
		ID: r.ID, Names: []string{"/" + r.Name}, ImageID: r.ImageID, Command: commandLine(path, args), Created: r.Created.Unix(),
		Ports: r.ports(), Labels: r.Config.Labels, State: r.State, Status: r.status(now), Mounts: q.mountPoints(ctx, r),
		Health:          &container.HealthSummary{Status: r.healthStatus()},
		NetworkSettings: &container.NetworkSettingsSummary{Networks: q.endpoints(r)},
	}
	if h := r.health(); h != nil {
		s.Health.FailingStreak = h.FailingStreak
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	if r.Manifest.Digest != "" {
		manifest := r.Manifest
		s.ImageManifestDescriptor = &manifest
	}
	s.HostConfig.NetworkMode, s.HostConfig.Annotations = string(r.HostConfig.NetworkMode), maps.Clone(r.HostConfig.Annotations)
	return s
}

// program is what runs, and its arguments.
func (r *record) program() (path string, args []string) {
	line := slices.Concat(r.Config.Entrypoint, r.Config.Cmd)
	if len(line) == 0 {
		return "", []string{}
	}
	return line[0], line[1:]
}

// commandLine joins a command as Docker shows it: only spaces are quoted.
func commandLine(path string, args []string) string {
	line := path
	for _, a := range args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		line += " " + a
	}
	return line
}

// status is the state in Docker's words.
func (r *record) status(now time.Time) string {
	since := func(t time.Time) string { return units.HumanDuration(max(0, now.Sub(t))) }
	switch r.State {
	case container.StateRunning:
		if h := r.health(); h != nil {
			return "Up " + since(r.Started) + " (" + health.Words(h.Status) + ")"
		}
		return "Up " + since(r.Started)
	case container.StatePaused:
		return "Up " + since(r.Started) + " (Paused)"
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", r.Exit, since(r.Finished))
	case container.StateExited:
		return fmt.Sprintf("Exited (%d) %s ago", r.Exit, since(r.Finished))
	case container.StateRemoving:
		return "Removal In Progress"
	case container.StateDead:
		return "Dead"
	}
	return "Created"
}

// ports are those that the container publishes and exposes; one that does not
// run, or has no network of its own, has none.
func (r *record) ports() []container.PortSummary {
	list := []container.PortSummary{}
	for port, bindings := range r.portMap() {
		p := container.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())}
		if len(bindings) == 0 {
			list = append(list, p)
		}
		for _, b := range bindings {
			host, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue // the network room chose it: it is a number
			}
			p.IP, p.PublicPort = b.HostIP, uint16(host)
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), cmp.Compare(a.PublicPort, b.PublicPort), a.IP.Compare(b.IP))
	})
	return list
}

func (r *record) portMap() network.PortMap {
	ports := network.PortMap{}
	if r.Net == nil || !slices.ContainsFunc(r.Net.Endpoints, func(e hostnet.Endpoint) bool { return e.Interface != "" }) {
		return ports
	}
	for p := range r.Config.ExposedPorts {
		ports[p] = nil
	}
	maps.Copy(ports, r.Net.Ports)
	return ports
}

// endpoints are the networks of a container, with addresses while it runs.
func (q query) endpoints(r *record) map[string]*network.EndpointSettings {
	list := r.attached().Shown(r.Net, q.e.o.Networks.NetworkID)
	for name, s := range list {
		if name == network.NetworkHost && r.running() {
			s.EndpointID = stableID(r.ID, s.NetworkID)
		}
	}
	return list
}

// shownMount says whether a mount is in the list of mounts: --tmpfs is not.
func (r *record) shownMount(p spec.Point) bool {
	if p.Type != mount.TypeTmpfs {
		return true
	}
	return slices.ContainsFunc(r.HostConfig.Mounts, func(m mount.Mount) bool { return m.Type == mount.TypeTmpfs && m.Target == p.Target })
}

func (q query) mountPoints(ctx context.Context, r *record) []container.MountPoint {
	list := []container.MountPoint{}
	for _, p := range r.Points {
		if !r.shownMount(p) {
			continue
		}
		m := container.MountPoint{Type: p.Type, Source: p.Source, Destination: p.Target, Mode: p.Mode, RW: !p.ReadOnly}
		switch p.Type {
		case mount.TypeTmpfs:
			m.Source = ""
		case mount.TypeBind:
			if m.Propagation = mount.Propagation(p.Propagation); m.Propagation == "" {
				m.Propagation = mount.PropagationRPrivate
			}
		case mount.TypeImage:
			m.Name = p.Source
			if m.Propagation = mount.PropagationRPrivate; p.Image != nil {
				m.Source = p.Image.ID.String()
			}
		case mount.TypeVolume:
			m.Name, m.Driver, m.Source = p.Source, "local", ""
			if v, err := q.e.o.Volumes.Get(ctx, p.Source); err == nil { // forced away otherwise: its name is still shown
				m.Driver, m.Source = v.Driver, v.Mountpoint
			}
			if m.Mode == "" && !slices.Contains(r.Anonymous, p.Source) { // Docker's shared label
				m.Mode = "z"
			}
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b container.MountPoint) int { return strings.Compare(a.Destination, b.Destination) })
	return list
}

// imageShown is what the user typed, or the image's id when that names another
// image now, or none. seen remembers answers for the length of one list.
func (q query) imageShown(ctx context.Context, r *record, seen map[string]string) string {
	name := r.Config.Image
	if name == r.ImageID {
		return name
	}
	key := name + " " + r.Manifest.Digest.String()
	id, ok := seen[key]
	if !ok {
		img, err := q.e.o.Images.Resolve(ctx, name, r.Manifest.Platform)
		switch {
		case err == nil:
			id = img.ID.String()
		case !errdefs.IsNotFound(err):
			q.e.o.Log.Warn("the image of a container could not be looked up", "container", r.ID, "image", name, "error", err)
		}
		seen[key] = id
	}
	if id == r.ImageID {
		return name
	}
	return r.ImageID
}

// VolumeUsers are the ids of the containers that have a volume.
func (e *records) VolumeUsers(name string) []string {
	var ids []string
	for _, r := range e.all() {
		if slices.ContainsFunc(r.Points, func(p spec.Point) bool { return p.Type == mount.TypeVolume && p.Source == name }) {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	return ids
}
