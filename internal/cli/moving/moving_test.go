package moving

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
)

// TestLike: what Docker filled in is left to Hezi, and what was asked for is kept.
func TestLike(t *testing.T) {
	const id, other = "0123456789ab0123456789ab", "fedcba9876543210"
	c := container.InspectResponse{
		ID:     id,
		Config: &container.Config{Hostname: id[:12], Env: []string{"A=B"}},
		HostConfig: &container.HostConfig{
			NetworkMode: "default", IpcMode: "container:" + other, PidMode: "container:" + other, Runtime: "runc",
			LogConfig: container.LogConfig{Type: "json-file"}, MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			Links: []string{"/db:/web/database"}, VolumesFrom: []string{"db"}, Binds: []string{"data:/data:ro"}, Tmpfs: map[string]string{"/tmp": ""},
		},
		Mounts: []container.MountPoint{
			{Type: mount.TypeVolume, Name: "data", Destination: "/data"},
			{Type: mount.TypeVolume, Name: "other", Source: "/var/lib/docker/volumes/other/_data", Destination: "/other", RW: true},
			{Type: mount.TypeBind, Source: "/srv", Destination: "/srv"},
			{Type: mount.TypeTmpfs, Destination: "/tmp", RW: true},
		},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"bridge": {NetworkID: "n1", Aliases: []string{id[:12], "www"}, IPAddress: netip.MustParseAddr("172.17.0.2")},
		}},
	}
	o := like(c, map[string]string{other: "db"}, system.Info{DefaultRuntime: "runc", LoggingDriver: "json-file"})
	want := container.HostConfig{
		NetworkMode: "bridge", IpcMode: "container:db", PidMode: "container:db", Links: []string{"db:database"},
		Binds: []string{"data:/data:ro"}, Tmpfs: map[string]string{"/tmp": ""},
		Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "other", Target: "/other"}, {Type: mount.TypeBind, Source: "/srv", Target: "/srv", ReadOnly: true}},
	}
	if !reflect.DeepEqual(*o.HostConfig, want) {
		t.Errorf("host configuration:\n%+v\nwant\n%+v", *o.HostConfig, want)
	}
	if o.Config.Hostname != "" || !reflect.DeepEqual(o.Config.Env, []string{"A=B"}) {
		t.Errorf("configuration: %+v", o.Config)
	}
	if got := o.NetworkingConfig.EndpointsConfig["bridge"]; !reflect.DeepEqual(got, &network.EndpointSettings{Aliases: []string{"www"}}) {
		t.Errorf("endpoint: %+v", got)
	}

	c.Config.Hostname, c.Config.ExposedPorts = "named", network.PortSet{network.MustParsePort("80/tcp"): {}}
	c.HostConfig.NetworkMode, c.HostConfig.Runtime, c.HostConfig.MaskedPaths = "container:"+other, "kata", []string{}
	o = like(c, map[string]string{other: "db"}, system.Info{DefaultRuntime: "runc"})
	if o.HostConfig.NetworkMode != "container:db" || o.NetworkingConfig != nil || o.Config.Hostname != "" || o.Config.ExposedPorts != nil {
		t.Errorf("in another's network: %+v %+v", o.Config, o.HostConfig)
	}
	if o.HostConfig.Runtime != "kata" || o.HostConfig.MaskedPaths == nil {
		t.Errorf("what was asked for is lost: %+v", o.HostConfig)
	}
	if c.HostConfig.VolumesFrom == nil || c.Config.Hostname != "named" {
		t.Error("what Docker said was changed")
	}
}

func TestLikeNetwork(t *testing.T) {
	six := network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("fd00::/64")}}}
	if o := likeNetwork(network.Network{EnableIPv6: true, IPAM: six}); o.EnableIPv4 == nil || *o.EnableIPv4 {
		t.Error("a network of IPv6 alone has IPv4")
	}
	four := network.IPAM{Config: append(six.Config, network.IPAMConfig{Subnet: netip.MustParsePrefix("10.0.0.0/24")})}
	if o := likeNetwork(network.Network{EnableIPv6: true, IPAM: four}); o.EnableIPv4 != nil { // as Docker before 28 says it
		t.Error("IPv4 is switched off")
	}
}

// TestAskedMAC: an address that was asked for is kept, and one that Docker chose is not.
func TestAskedMAC(t *testing.T) {
	mac := network.HardwareAddr{2, 66, 0, 0, 0, 7}
	for _, c := range []struct {
		name, raw, version string
		running            bool
		had                network.HardwareAddr
		want               string
	}{
		{"as of 20.10", `{"Config":{"MacAddress":"02:42:00:00:00:07"}}`, "1.41", true, network.HardwareAddr{2, 66, 1, 1, 1, 1}, "02:42:00:00:00:07"},
		{"not asked for", `{"Config":{}}`, "1.41", true, mac, ""},
		{"as of 25, stopped", `{}`, "1.44", false, mac, "02:42:00:00:00:07"},
		{"as of 25, runs", `{"Config":{"MacAddress":"02:42:00:00:00:07"}}`, "1.44", true, mac, ""},
	} {
		r := container.InspectResponse{
			State: &container.State{Running: c.running}, Config: &container.Config{}, HostConfig: &container.HostConfig{NetworkMode: "default"},
			NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"bridge": {MacAddress: c.had}}},
		}
		if err := askedMAC(&r, []byte(c.raw), c.version); err != nil {
			t.Fatal(err)
		}
		if got := endpoints(r, r.HostConfig).EndpointsConfig["bridge"].MacAddress.String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestMachine(t *testing.T) {
	for address, want := range map[string]string{
		"unix:///var/run/docker.sock": "", "tcp://127.0.0.1:2375": "", "tcp://[::1]:2375": "", "ssh://root@localhost": "",
		"ssh://root@server:22": "server", "tcp://10.0.0.5:2376": "10.0.0.5", "server:2375": "server",
	} {
		if got := machine(address); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}
