package moving

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
)

func (m *mover) takeVolumes(ctx context.Context) error {
	list, err := m.from.VolumeList(ctx, client.VolumeListOptions{})
	if err != nil {
		return err
	}
	for _, w := range list.Warnings {
		m.problems = append(m.problems, errors.New(w))
	}
	if !m.dry {
		m.closeWindows(ctx, list.Items)
	}
	slices.SortFunc(list.Items, func(a, b volume.Volume) int { return strings.Compare(a.Name, b.Name) })
	for _, v := range list.Items {
		_, err := m.to.VolumeInspect(ctx, v.Name, client.VolumeInspectOptions{})
		if err == nil {
			m.kept("volume", v.Name)
			continue
		}
		if errdefs.IsNotFound(err) {
			err = m.takeVolume(ctx, v)
		}
		if err != nil {
			m.failed("volume", v.Name, err)
			continue
		}
		note := ""
		if device := v.Options["device"]; m.stopped && strings.HasPrefix(device, "/") && slices.ContainsFunc(strings.Split(v.Options["o"], ","), func(o string) bool { return o == "bind" || o == "rbind" }) {
			note = fmt.Sprintf(" (%s of this machine)", device) // the data root may be another's
		}
		m.took("volume %s%s", v.Name, note)
	}
	return nil
}

// anonymous is Docker's label of volumes without a name. Removed, such volumes do
// not stay in Hezi's trash.
const anonymous = "com.docker.volume.anonymous"

func (m *mover) takeVolume(ctx context.Context, v volume.Volume) error {
	switch {
	case v.Driver != "local":
		return fmt.Errorf("its driver %s is a plugin of Docker's: make a volume with hezi volume create and copy what it holds", v.Driver)
	case m.dry:
		return nil
	case v.Options["device"] != "": // a mount, which is the same here
		_, err := m.to.VolumeCreate(ctx, client.VolumeCreateOptions{Name: v.Name, DriverOpts: v.Options, Labels: v.Labels})
		return err
	}
	labels := maps.Clone(v.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[anonymous] = ""
	window, err := m.to.VolumeCreate(ctx, client.VolumeCreateOptions{
		Labels: labels, DriverOpts: windowOptions(v),
	})
	if err != nil {
		return err
	}
	err = m.to.PostOwn(ctx, "/hezi/volumes/"+window.Volume.Name+"/clone", url.Values{"to": {v.Name}}, nil, struct{}{}, nil)
	return errors.Join(err, m.closeWindow(context.WithoutCancel(ctx), window.Volume.Name))
}

// windowOptions make a volume that is only the way to one of Docker's.
func windowOptions(v volume.Volume) map[string]string {
	return map[string]string{"type": "none", "o": "bind,ro", "device": v.Mountpoint}
}

// closeWindow removes the way to a volume of Docker's. The engine may need a moment to
// see that a copy was given up.
func (m *mover) closeWindow(ctx context.Context, name string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := m.to.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
		if err == nil || !errdefs.IsConflict(err) || time.Now().After(end) {
			return err
		}
	}
}

// closeWindows removes what imports of these volumes have left that were killed. One
// that is in use is of another that goes on.
func (m *mover) closeWindows(ctx context.Context, docker []volume.Volume) {
	left, err := m.to.VolumeList(ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", anonymous)})
	if err != nil {
		return // the next request says it
	}
	for _, w := range left.Items {
		isWindow := func(v volume.Volume) bool { return v.Mountpoint != "" && maps.Equal(w.Options, windowOptions(v)) }
		if !slices.ContainsFunc(docker, isWindow) {
			continue
		}
		if _, err := m.to.VolumeRemove(ctx, w.Name, client.VolumeRemoveOptions{}); err != nil && !errdefs.IsConflict(err) {
			m.failed("volume", w.Name, err)
		}
	}
}

func (m *mover) takeNetworks(ctx context.Context) error {
	list, err := m.from.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return err
	}
	for _, n := range list.Items {
		if slices.Contains([]string{"bridge", "host", "none"}, n.Name) {
			continue // each engine has its own
		}
		_, err := m.to.NetworkInspect(ctx, n.Name, client.NetworkInspectOptions{})
		if err == nil {
			m.kept("network", n.Name)
			continue
		}
		if errdefs.IsNotFound(err) {
			err = m.takeNetwork(ctx, n.Network)
		}
		if err != nil {
			m.failed("network", n.Name, err)
		}
	}
	return nil
}

// bridgeName is the option that names a network's bridge on the host.
const bridgeName = "com.docker.network.bridge.name"

// takeNetwork makes the same network. Docker's bridge stays on the host with its
// name and its addresses, also while Docker is stopped.
func (m *mover) takeNetwork(ctx context.Context, n network.Network) error {
	if n.Scope != "local" {
		return errors.New("it is one of a swarm, which Hezi has not")
	}
	o, note := likeNetwork(n), ""
	if n.Driver == "bridge" {
		if name := o.Options[bridgeName]; name != "" {
			o.Options = maps.Clone(o.Options)
			delete(o.Options, bridgeName)
			note = fmt.Sprintf(" (not on the bridge %s, which is Docker's)", name)
		}
		if !m.subnets {
			o.IPAM, m.moved[n.Name] = nil, true
		}
	}
	if !m.dry {
		if _, err := m.to.NetworkCreate(ctx, n.Name, o); err != nil {
			return err
		}
	}
	m.took("network %s%s", n.Name, note)
	return nil
}

// likeNetwork is what makes the same network again.
func likeNetwork(n network.Network) client.NetworkCreateOptions {
	o := client.NetworkCreateOptions{
		Driver: n.Driver, Internal: n.Internal, Attachable: n.Attachable, ConfigOnly: n.ConfigOnly,
		ConfigFrom: n.ConfigFrom.Network, Options: n.Options, Labels: n.Labels, IPAM: &n.IPAM, EnableIPv6: &n.EnableIPv6,
	}
	// Docker before 28 does not say EnableIPv4.
	four := slices.ContainsFunc(n.IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet.Addr().Is4() })
	if !n.EnableIPv4 && !four && n.EnableIPv6 {
		o.EnableIPv4 = new(bool)
	}
	return o
}

// keepsAddress says whether an address that a container asked for means the same in Hezi.
func (m *mover) keepsAddress(name string, c *network.EndpointIPAMConfig) bool {
	return c == nil || !m.moved[name] || c.IPv4Address == (netip.Addr{}) && c.IPv6Address == (netip.Addr{})
}
