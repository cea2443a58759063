package moving

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
)

// takeContainers makes the containers again. They are not started.
func (m *mover) takeContainers(ctx context.Context) error {
	info, err := m.from.Info(ctx, client.InfoOptions{})
	if err != nil {
		return err
	}
	if m.stopped { // of a Docker that runs, they are about its host
		for _, w := range info.Info.Warnings {
			m.problems = append(m.problems, errors.New(w))
		}
	}
	list, err := m.from.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return err
	}
	names := map[string]string{} // by id
	for _, c := range list.Items {
		names[c.ID] = strings.TrimPrefix(slices.MinFunc(c.Names, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") }), "/")
	}
	// The oldest, which are last, come first: one that is in another's namespaces, or
	// has a link to it, is younger.
	slices.Reverse(list.Items)
	for _, c := range list.Items {
		name := names[c.ID]
		_, err := m.to.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
		if err == nil {
			m.kept("container", name)
			continue
		}
		if errdefs.IsNotFound(err) {
			err = m.takeContainer(ctx, c.ID, name, names, info.Info)
		}
		if err != nil {
			m.failed("container", name, err)
		}
	}
	return nil
}

func (m *mover) takeContainer(ctx context.Context, id, name string, names map[string]string, info system.Info) error {
	got, err := m.from.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := got.Container
	switch {
	case c.Config.Labels["com.docker.swarm.task.id"] != "":
		return errors.New("it is a task of a swarm's, which Hezi has not")
	case c.HostConfig.AutoRemove:
		return errors.New("it is removed when it ends (--rm): run it again with hezi")
	}
	for n, e := range c.NetworkSettings.Networks {
		if !m.keepsAddress(n, e.IPAMConfig) {
			return fmt.Errorf("it asks for an address of its own in the network %s: hezi network rm %s, and import with --keep-subnets", n, n)
		}
	}
	note := ""
	if !m.stopped { // else what comes was asked for
		note = m.askedMACs(ctx, &c, got.Raw)
	}
	o := like(c, names, info)
	if o.Config.Image, err = m.image(ctx, c.Image, c.Config.Image); err != nil {
		return fmt.Errorf("its image: %w", err)
	}
	o.Name = name
	if m.dry {
		m.took("container %s%s", name, note)
		return nil
	}
	made, err := m.to.ContainerCreate(ctx, o)
	if err != nil {
		return err
	}
	for _, w := range made.Warnings {
		note += "; " + w
	}
	m.took("container %s%s", name, note)
	return nil
}

// lastOldMAC is the newest API version that has the MAC address that a container
// was asked to have in its configuration, whatever its state.
const lastOldMAC = "1.44"

// askedMACs leaves those MAC addresses in the container's networks that it was given
// when it was made, and notes where that cannot be known.
func (m *mover) askedMACs(ctx context.Context, c *container.InspectResponse, raw []byte) (note string) {
	newer := !versions.LessThan(m.from.ClientVersion(), lastOldMAC)
	var err error
	if newer {
		raw, err = m.inspectOld(ctx, c.ID)
	}
	var old struct {
		Config struct{ MacAddress network.HardwareAddr }
	}
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &old)
	}
	unknown := keepMACs(c, old.Config.MacAddress, err == nil, newer)
	if len(unknown) == 0 {
		return ""
	}
	note = "; without a MAC address in " + strings.Join(unknown, ", ") + ", since Docker does not say whether one was asked for"
	if err != nil {
		note += ": " + err.Error()
	}
	return note
}

// inspectOld is what Docker says of a container to an old client.
func (m *mover) inspectOld(ctx context.Context, id string) ([]byte, error) {
	resp, err := m.from.GetAs(ctx, lastOldMAC, "/containers/"+id+"/json")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 16<<20))
}

// keepMACs gives the container's first network the MAC address that was asked for
// there, which is known or not, and says of which networks it is not known. Docker
// before 25 has such addresses in the first network only. Later ones show it in each
// until the container is started, and while it runs also what they have chosen.
func keepMACs(c *container.InspectResponse, asked network.HardwareAddr, known, others bool) (unknown []string) {
	never := c.State != nil && c.State.Status == container.StateCreated && c.State.ExitCode == 0
	if c.HostConfig.NetworkMode.IsHost() || c.HostConfig.NetworkMode.IsNone() || c.HostConfig.NetworkMode.IsContainer() {
		return nil
	}
	for name, e := range c.NetworkSettings.Networks {
		switch {
		case known && isMain(c.HostConfig.NetworkMode, name, e):
			e.MacAddress = asked
		case others && never:
		default:
			e.MacAddress = nil
			if others || !known {
				unknown = append(unknown, name)
			}
		}
	}
	slices.Sort(unknown)
	return unknown
}

// isMain says whether a network, which may be meant by its id, is a container's first.
func isMain(mode container.NetworkMode, name string, e *network.EndpointSettings) bool {
	if mode.IsDefault() {
		mode = network.NetworkBridge
	}
	return name == string(mode) || e.NetworkID != "" && e.NetworkID == string(mode)
}

// like is the request that makes a container again. What Docker has filled in
// itself is left to Hezi.
func like(c container.InspectResponse, names map[string]string, info system.Info) client.ContainerCreateOptions {
	config, host := *c.Config, *c.HostConfig
	switch {
	case host.NetworkMode.IsContainer(): // the other's, and so are its ports
		config.Hostname, config.Domainname, config.ExposedPorts = "", "", nil
	case strings.HasPrefix(c.ID, config.Hostname), host.NetworkMode.IsHost() && config.Hostname == info.Name:
		config.Hostname = ""
	}
	host.ContainerIDFile = ""
	if host.Runtime == info.DefaultRuntime {
		host.Runtime = ""
	}
	if host.LogConfig.Type == info.LoggingDriver && len(host.LogConfig.Config) == 0 {
		host.LogConfig = container.LogConfig{}
	}
	if len(host.MaskedPaths) > 0 { // none are what systempaths=unconfined asks for
		host.MaskedPaths = nil
	}
	if len(host.ReadonlyPaths) > 0 {
		host.ReadonlyPaths = nil
	}
	if host.NetworkMode.IsDefault() {
		host.NetworkMode = network.NetworkBridge
	}
	host.NetworkMode = container.NetworkMode(renamed(string(host.NetworkMode), names))
	host.IpcMode = container.IpcMode(renamed(string(host.IpcMode), names))
	host.PidMode = container.PidMode(renamed(string(host.PidMode), names))
	host.Links = links(host.Links)
	host.VolumesFrom = nil
	host.Mounts = append(slices.Clone(host.Mounts), unsaid(c.Mounts, &host)...)
	return client.ContainerCreateOptions{Config: &config, HostConfig: &host, NetworkingConfig: endpoints(c, &host)}
}

// renamed names a container that is meant by its id, as in container:ID: in Hezi it
// has another.
func renamed(mode string, names map[string]string) string {
	if id, ok := strings.CutPrefix(mode, "container:"); ok && names[id] != "" {
		return "container:" + names[id]
	}
	return mode
}

// links are as --link has them: Docker shows /db:/web/alias.
func links(shown []string) (out []string) {
	for _, l := range shown {
		of, as, _ := strings.Cut(l, ":")
		out = append(out, strings.TrimPrefix(of, "/")+":"+as[strings.LastIndex(as, "/")+1:])
	}
	return out
}

// unsaid are the mounts that the request for the container did not name: volumes
// that its image asks for, and what --volumes-from gave.
func unsaid(all []container.MountPoint, host *container.HostConfig) (out []mount.Mount) {
	said := map[string]bool{}
	for _, b := range host.Binds {
		if parts := strings.Split(b, ":"); len(parts) > 1 {
			said[parts[1]] = true
		}
	}
	for _, o := range host.Mounts {
		said[o.Target] = true
	}
	for target := range host.Tmpfs {
		said[target] = true
	}
	byTarget := func(a, b container.MountPoint) int { return strings.Compare(a.Destination, b.Destination) }
	for _, p := range slices.SortedFunc(slices.Values(all), byTarget) { // Docker shows them in any order
		if said[p.Destination] {
			continue
		}
		source := p.Source
		if p.Type == mount.TypeVolume {
			source = p.Name
		}
		out = append(out, mount.Mount{Type: p.Type, Source: source, Target: p.Destination, ReadOnly: !p.RW})
	}
	return out
}

// endpoints are the container's places in networks, without what was given to it there.
func endpoints(c container.InspectResponse, host *container.HostConfig) *network.NetworkingConfig {
	if host.NetworkMode.IsHost() || host.NetworkMode.IsNone() || host.NetworkMode.IsContainer() {
		return nil
	}
	all := map[string]*network.EndpointSettings{}
	for name, e := range c.NetworkSettings.Networks {
		if isMain(host.NetworkMode, name, e) {
			host.NetworkMode = container.NetworkMode(name)
		}
		all[name] = &network.EndpointSettings{
			IPAMConfig: e.IPAMConfig, Links: links(e.Links), DriverOpts: e.DriverOpts, GwPriority: e.GwPriority, MacAddress: e.MacAddress,
			Aliases: slices.DeleteFunc(slices.Clone(e.Aliases), func(a string) bool { return strings.HasPrefix(c.ID, a) }), // Docker before 25 adds the id
		}
	}
	return &network.NetworkingConfig{EndpointsConfig: all}
}
