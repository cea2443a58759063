package moving

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"hezi/internal/cli/endpoint"
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

// TestAskedMACs: an address that was asked for is kept, and one that Docker chose is not.
func TestAskedMACs(t *testing.T) {
	const asked, chosen = "02:42:00:00:00:07", "02:42:01:01:01:01"
	for _, c := range []struct {
		name, version, state string
		mode, config         string // config is what old clients are told
		main, other          string // as the newest client is told
		want, wantOther      string
		note                 string
	}{
		{"20.10, runs", "1.41", "running", "default", asked, chosen, "", asked, "", ""},
		{"20.10, not asked for", "1.41", "running", "default", "", chosen, "", "", "", ""},
		{"20.10, stopped", "1.41", "exited", "default", asked, "", "", asked, "", ""},
		{"never started", "1.56", "created", "default", asked, asked, "", asked, "", ""},
		{"never started, two networks", "1.56", "created", "default", asked, asked, chosen, asked, chosen, ""},
		{"runs", "1.56", "running", "default", asked, asked, "", asked, "", ""},
		{"runs, not asked for", "1.56", "running", "default", "", chosen, "", "", "", ""},
		{"stopped", "1.56", "exited", "default", asked, "", "", asked, "", ""},
		{"stopped, by the network's id", "1.56", "exited", "id of bridge", asked, "", "", asked, "", ""},
		{"runs, two networks", "1.56", "running", "bridge", asked, asked, chosen, asked, "", "; without a MAC address in other, since Docker does not say"},
		{"its old API is gone", "1.60", "running", "bridge", "gone", asked, "", "", "", "without a MAC address in bridge, since Docker does not say whether one was asked for: Error response from daemon: client version 1.44 is too old"},
		{"none", "1.56", "running", "none", "", chosen, "", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := serve(t, c.version, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1.44/containers/abc/json" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				if c.config == "gone" {
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"message":"client version 1.44 is too old"}`)
					return
				}
				_, _ = io.WriteString(w, `{"Config":{"MacAddress":"`+c.config+`"}}`)
			})
			mac := func(text string) network.HardwareAddr {
				a, _ := net.ParseMAC(text)
				return network.HardwareAddr(a)
			}
			r := container.InspectResponse{
				ID: "abc", State: &container.State{Status: container.ContainerState(c.state)}, Config: &container.Config{},
				HostConfig:      &container.HostConfig{NetworkMode: container.NetworkMode(c.mode)},
				NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"bridge": {NetworkID: "id of bridge", MacAddress: mac(c.main)}}},
			}
			if c.mode == "none" {
				r.NetworkSettings.Networks = map[string]*network.EndpointSettings{"none": {}}
			}
			if c.other != "" {
				r.NetworkSettings.Networks["other"] = &network.EndpointSettings{MacAddress: mac(c.other)}
			}
			m := &mover{from: from}
			note := m.askedMACs(t.Context(), &r, []byte(`{"Config":{"MacAddress":"`+c.config+`"}}`))
			if note != "" && c.note == "" || !strings.Contains(note, c.note) {
				t.Errorf("noted %q, want %q", note, c.note)
			}
			if c.mode == "none" {
				return
			}
			all := endpoints(r, r.HostConfig).EndpointsConfig
			if got := all["bridge"].MacAddress.String(); got != c.want || r.HostConfig.NetworkMode != "default" && r.HostConfig.NetworkMode != "bridge" {
				t.Errorf("%q, want %q; in %s", got, c.want, r.HostConfig.NetworkMode)
			}
			if e := all["other"]; e != nil && e.MacAddress.String() != c.wantOther {
				t.Errorf("in the other network %q, want %q", e.MacAddress, c.wantOther)
			}
		})
	}
}

// serve answers as an engine with this version of the API.
func serve(t *testing.T, version string, f http.HandlerFunc) *endpoint.Connection {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	c, err := endpoint.Dialled("a test's engine", dial).Connect("test", nil, client.WithAPIVersion(version))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestWhy: the receiving engine's error is said, and the source's if its archive is cut.
func TestWhy(t *testing.T) {
	for _, cut := range []bool{false, true} {
		from := serve(t, "1.50", func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/failure") {
				_, _ = io.WriteString(w, `"of `+r.URL.Query().Get("names")+`: a file is damaged"`)
				return
			}
			_, _ = io.WriteString(w, "the beginning")
			_ = http.NewResponseController(w).Flush()
			if cut {
				panic(http.ErrAbortHandler)
			}
		})
		to := serve(t, "1.50", func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				_, _ = io.WriteString(w, `{"error":"no space left"}`)
			}
		})
		m := &mover{from: from, to: to, stopped: true}
		_, err := m.load(t.Context(), []string{"a:1"})
		want := "no space left"
		if cut {
			want = "of a:1: a file is damaged"
		}
		if err == nil || err.Error() != want {
			t.Errorf("cut %v: %v, want %q", cut, err, want)
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
