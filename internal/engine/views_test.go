package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	apinet "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/disk"
	"hezi/internal/engine/execs"
	"hezi/internal/engine/spec"
	"hezi/internal/events"
	"hezi/internal/image"
	"hezi/internal/network"
	hostvolume "hezi/internal/volume"
)

// namedImages are images by what users type.
type namedImages map[string]*image.Image

func (n namedImages) Resolve(_ context.Context, ref string, _ *ocispec.Platform) (*image.Image, error) {
	if img := n[ref]; img != nil {
		return img, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
}
func (n namedImages) RootFS(context.Context, *image.Image) (image.RootFS, error) {
	return image.RootFS{}, nil
}
func (n namedImages) Touch(digest.Digest) {}

func (n namedImages) Pin(context.Context, *image.Image, string) error { return nil }
func (n namedImages) Unpin(context.Context, string) error             { return nil }

// sizedLayers are writable layers of 1000 bytes.
type sizedLayers struct{ fakeLayers }

func (s sizedLayers) Size(_ context.Context, id string) (int64, error) {
	if !s.fakeLayers[id] {
		return 0, errdefs.ErrNotFound.WithMessage("no layer " + id)
	}
	return 1000, nil
}

// TestSizeOfDamaged: one container whose files cannot be read spoils no list.
func TestSizeOfDamaged(t *testing.T) {
	e := viewed(t, &record{Name: "whole", State: container.StateExited, Config: &container.Config{}}, &record{Name: "bad", State: container.StateExited, Config: &container.Config{}})
	e.o.Layers = damagedLayers{e.o.Layers.(sizedLayers), strings.Repeat("02", 32)}
	list, err := e.List(t.Context(), ListOptions{Size: true, All: true})
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	for _, s := range list {
		if want := map[string]int64{"/whole": 1000, "/bad": 0}[s.Names[0]]; s.SizeRw != want {
			t.Errorf("%s has %d bytes, not %d", s.Names[0], s.SizeRw, want)
		}
	}
}

// damagedLayers cannot read the layer of one container.
type damagedLayers struct {
	sizedLayers
	bad string
}

func (d damagedLayers) Size(ctx context.Context, id string) (int64, error) {
	if id == d.bad {
		return 0, errdefs.ErrFailedPrecondition.WithMessage("the disk is damaged")
	}
	return d.sizedLayers.Size(ctx, id)
}

// localVolumes has every volume.
type localVolumes struct{}

func (localVolumes) Create(context.Context, volume.CreateRequest) (volume.Volume, error) {
	return volume.Volume{}, errdefs.ErrNotImplemented
}
func (localVolumes) Get(_ context.Context, name string) (volume.Volume, error) {
	return volume.Volume{Name: name, Driver: "local", Mountpoint: "/data/volumes/" + name + "/_data"}, nil
}
func (l localVolumes) Mount(ctx context.Context, name string, _ hostvolume.Use) (volume.Volume, error) {
	return l.Get(ctx, name)
}
func (localVolumes) Unmount(string, []string)                   {}
func (localVolumes) Hold(string, []string)                      {}
func (localVolumes) Settle()                                    {}
func (localVolumes) Remove(context.Context, string, bool) error { return nil }

// namedNetworks knows the ids of networks.
type namedNetworks struct{ networks }

func (namedNetworks) NetworkID(name string) string { return "id-of-" + name }

func (namedNetworks) Release(string) {}

func (namedNetworks) MayRestrain(string) error { return nil }

func (namedNetworks) Resolve(ref string) (id, name string, err error) {
	if ref == "default" {
		ref = "bridge"
	}
	return "id-of-" + ref, ref, nil
}

func (namedNetworks) Gateways() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("172.20.0.1")}
}

func id(n int) string { return strings.Repeat(fmt.Sprintf("%02x", n), 32) }

const imageID = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// viewed is an engine with hand-made records, the first the oldest.
func viewed(t *testing.T, records ...*record) *Engine {
	t.Helper()
	e := newEngine(Options{
		DataRoot: "/data", ExecRoot: "/exec", Images: namedImages{}, Layers: sizedLayers{fakeLayers{}}, Volumes: localVolumes{},
		Networks: namedNetworks{}, Events: events.New(), Log: slog.New(slog.DiscardHandler),
	})
	born := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for i, r := range records {
		r.ID, r.Platform = id(i+1), "linux"
		if r.Created.IsZero() {
			r.Created = born.Add(time.Duration(i) * time.Minute)
		}
		if r.Config == nil {
			r.Config = &container.Config{}
		}
		if r.HostConfig == nil {
			r.HostConfig = &container.HostConfig{NetworkMode: "bridge"}
		}
		if r.ImageID == "" {
			r.ImageID, r.Config.Image = imageID, "busybox"
		}
		if _, err := e.names.Reserve(r.ID, r.Name); err != nil {
			t.Fatal(err)
		}
		e.add(newEntry(r))
		e.o.Layers.(sizedLayers).fakeLayers[r.ID] = true
	}
	return e
}

// sandbox is what the network room answers for a container on the bridge.
func sandbox(ports apinet.PortMap) *network.Sandbox {
	return &network.Sandbox{Path: "/exec/netns/a", Ports: ports, Endpoints: []network.Endpoint{{Network: "bridge", Interface: "eth0", Settings: apinet.EndpointSettings{
		NetworkID: "id-of-bridge", EndpointID: "e1", Gateway: netip.MustParseAddr("172.20.0.1"), IPAddress: netip.MustParseAddr("172.20.0.2"),
		IPPrefixLen: 16, MacAddress: apinet.HardwareAddr{0x02, 0x42, 0xac, 0x14, 0, 2},
	}}}}
}

func named(list []container.Summary) string {
	var names []string
	for _, s := range list {
		names = append(names, strings.TrimPrefix(s.Names[0], "/"))
	}
	return strings.Join(names, " ")
}

// several are containers of many kinds.
func several() []*record {
	started := time.Date(2026, 11, 23, 12, 30, 0, 0, time.UTC)
	web := apinet.PortMap{apinet.MustParsePort("80/tcp"): {{HostIP: netip.IPv4Unspecified(), HostPort: "8080"}}}
	return []*record{
		{Name: "old", State: container.StateExited, Exit: 3, Started: started, Config: &container.Config{Labels: map[string]string{"app": "db", "env": "test"}}},
		{Name: "web", State: container.StateRunning, Started: started, Net: sandbox(web),
			Config: &container.Config{Labels: map[string]string{"app": "web"}, ExposedPorts: apinet.PortSet{apinet.MustParsePort("443/tcp"): {}}},
			Points: []spec.Point{{Type: mount.TypeVolume, Source: "data", Target: "/srv"}}},
		{Name: "web-2", State: container.StatePaused, Started: started, Layers: []digest.Digest{"sha256:a", "sha256:ab"},
			HostConfig: &container.HostConfig{NetworkMode: "host", Annotations: map[string]string{"who": "me"}}},
		{Name: "loop", State: container.StateRestarting, Exit: 1, Started: started, ImageID: "sha256:2222", Config: &container.Config{Image: "other"}},
		{Name: "new", State: container.StateCreated, Points: []spec.Point{{Type: mount.TypeBind, Source: "/host", Target: "/in"}},
			HostConfig: &container.HostConfig{NetworkMode: "container:x"}},
	}
}

func TestListFilters(t *testing.T) {
	e := viewed(t, several()...)
	e.o.Images = namedImages{"busybox": {ID: imageID, Layers: []digest.Digest{"sha256:a"}}, "base": {ID: "sha256:9", Layers: []digest.Digest{"sha256:a"}}}
	for _, c := range []struct {
		filters string // "key=value key=value"
		o       ListOptions
		want    string
	}{
		{"", ListOptions{}, "loop web-2 web"},
		{"", ListOptions{All: true}, "new loop web-2 web old"},
		{"", ListOptions{Limit: 2}, "new loop"},
		{"", ListOptions{Limit: -1}, "loop web-2 web"},
		{"name=web", ListOptions{}, "web-2 web"},
		{"name=^/web$", ListOptions{}, "web"},
		{"name=^web$ name=old", ListOptions{All: true}, "web old"},
		{"id=" + id(2)[:12], ListOptions{}, "web"},
		{"id=" + id(2)[:12] + " name=loop", ListOptions{}, ""},
		{"label=app", ListOptions{All: true}, "web old"},
		{"label=app=db label=env", ListOptions{All: true}, "old"},
		{"label=app=x", ListOptions{All: true}, ""},
		{"annotation=who=me", ListOptions{}, "web-2"},
		{"status=exited status=created", ListOptions{}, "new old"},
		{"status=running", ListOptions{All: true}, "web"},
		{"exited=3", ListOptions{All: true}, "old"},
		{"exited=0", ListOptions{All: true}, ""},
		{"ancestor=busybox", ListOptions{All: true}, "new web-2 web old"},
		{"ancestor=base", ListOptions{All: true}, "web-2"},
		{"ancestor=2222", ListOptions{}, "loop"},
		{"ancestor=sha256:2222", ListOptions{}, "loop"},
		{"ancestor=nothing", ListOptions{All: true}, ""},
		{"before=web-2", ListOptions{All: true}, "web old"},
		{"since=web", ListOptions{All: true}, "new loop web-2"},
		{"since=old before=loop", ListOptions{All: true}, "web-2 web"},
		{"volume=data", ListOptions{}, "web"},
		{"volume=/srv volume=/in", ListOptions{All: true}, "new web"},
		{"volume=/host", ListOptions{All: true}, "new"},
		{"network=bridge", ListOptions{All: true}, "loop web old"},
		{"network=id-of-h", ListOptions{}, "web-2"},
		{"publish=8080", ListOptions{}, "web"},
		{"publish=8000-8100/tcp", ListOptions{}, "web"},
		{"publish=8080/udp", ListOptions{}, ""},
		{"publish=1 expose=443", ListOptions{}, "web"},
		{"health=none", ListOptions{}, "loop web-2 web"},
		{"health=healthy", ListOptions{}, ""},
		{"is-task=false", ListOptions{}, "loop web-2 web"},
		{"is-task=true", ListOptions{}, ""},
		{"isolation=default", ListOptions{}, "loop web-2 web"},
	} {
		c.o.Filters = filters{}
		for _, f := range strings.Fields(c.filters) {
			k, v, _ := strings.Cut(f, "=")
			if c.o.Filters[k] == nil {
				c.o.Filters[k] = map[string]bool{}
			}
			c.o.Filters[k][v] = true
		}
		list, err := e.List(t.Context(), c.o)
		if err != nil || named(list) != c.want {
			t.Errorf("%q %+v: %q %v, want %q", c.filters, c.o, named(list), err, c.want)
		}
	}
}

func TestBadFilters(t *testing.T) {
	e := viewed(t, several()...)
	for f, want := range map[string]string{
		"colour=red":    "invalid filter 'colour'",
		"status=up":     "invalid filter 'status=up': invalid value for state (up): must be one of created, running, paused, restarting, removing, exited, dead",
		"exited=x":      "invalid filter 'exited=x'",
		"health=fine":   "invalid filter 'health=fine': invalid value for health (fine)",
		"is-task=maybe": "invalid filter 'is-task=maybe'",
		"publish=1:2":   "filter for 'publish' should not contain ':': 1:2",
		"expose=x":      "invalid filter 'expose=x'",
		"name=(":        "invalid filter 'name=('",
		"before=nobody": "No such container: nobody",
	} {
		k, v, _ := strings.Cut(f, "=")
		_, err := e.List(t.Context(), ListOptions{Filters: filters{k: {v: true}}})
		if err == nil || !strings.HasPrefix(err.Error(), want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v, want %q", f, err, want)
		}
	}
	for f, want := range map[string]string{"until=soon": `failed to parse value as time or duration: "soon"`, "name=x": "invalid filter 'name'"} {
		k, v, _ := strings.Cut(f, "=")
		if _, err := e.PruneContainers(t.Context(), disk.PruneOptions{Filters: filters{k: {v: true}}}); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", f, err, want)
		}
	}
}

func TestSummary(t *testing.T) {
	web := apinet.PortMap{
		apinet.MustParsePort("80/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: "8081"}, {HostIP: netip.IPv4Unspecified(), HostPort: "8080"}},
		apinet.MustParsePort("53/udp"): {{HostIP: netip.IPv4Unspecified(), HostPort: "53"}},
	}
	r := &record{Name: "web", State: container.StateRunning, Started: time.Now(), Net: sandbox(web),
		Config: &container.Config{Entrypoint: []string{"sh"}, Cmd: []string{"-c", "echo 1 2"}, ExposedPorts: apinet.PortSet{apinet.MustParsePort("443"): {}, apinet.MustParsePort("80"): {}}}}
	e := viewed(t, r)
	e.o.Images = namedImages{"busybox": {ID: imageID}}
	list, err := e.List(t.Context(), ListOptions{Size: true})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	s := list[0]
	var ports []string
	for _, p := range s.Ports {
		ports = append(ports, fmt.Sprintf("%s:%d->%d/%s", p.IP, p.PublicPort, p.PrivatePort, p.Type))
	}
	if got := strings.Join(ports, " "); got != "0.0.0.0:53->53/udp 0.0.0.0:8080->80/tcp 127.0.0.1:8081->80/tcp invalid IP:0->443/tcp" {
		t.Error(got)
	}
	if s.Command != "sh -c 'echo 1 2'" || s.Image != "busybox" || s.Status != "Up Less than a second" || s.SizeRw != 1000 || s.SizeRootFs != 1000 ||
		s.NetworkSettings.Networks["bridge"].IPAddress != netip.MustParseAddr("172.20.0.2") || s.HostConfig.NetworkMode != "bridge" {
		t.Errorf("%+v", s)
	}
	for name, img := range map[string]namedImages{"moved": {"busybox": {ID: "sha256:3"}}, "removed": {}} {
		e.o.Images = img
		if list, err = e.List(t.Context(), ListOptions{}); err != nil || list[0].Image != imageID {
			t.Errorf("%s: %+v %v", name, list, err)
		}
	}
}

func TestStatus(t *testing.T) {
	now := time.Now()
	for want, r := range map[string]record{
		"Created":                       {State: container.StateCreated},
		"Up 3 seconds":                  {State: container.StateRunning, Started: now.Add(-3 * time.Second)},
		"Up 2 hours (Paused)":           {State: container.StatePaused, Started: now.Add(-2 * time.Hour)},
		"Exited (137) 2 minutes ago":    {State: container.StateExited, Exit: 137, Finished: now.Add(-2 * time.Minute)},
		"Restarting (1) 5 seconds ago":  {State: container.StateRestarting, Exit: 1, Finished: now.Add(-5 * time.Second)},
		"Removal In Progress":           {State: container.StateRemoving},
		"Dead":                          {State: container.StateDead},
		"Up Less than a second":         {State: container.StateRunning, Started: now.Add(time.Second)},
		"Exited (0) About a minute ago": {State: container.StateExited, Finished: now.Add(-time.Minute)},
	} {
		if got := r.status(now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestInspectGolden compares whole answers; HEZI_GOLDEN=write makes them anew.
func TestInspectGolden(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 30, 0, 123456789, time.UTC)
	pids := int64(100)
	records := map[string]*record{
		"running": {Name: "web", State: container.StateRunning, PID: 1, Started: at, ImageID: imageID, Anonymous: []string{"anon"},
			Manifest: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:5555555555555555555555555555555555555555555555555555555555555555", Size: 610, Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}},
			Net:      sandbox(apinet.PortMap{apinet.MustParsePort("80/tcp"): {{HostIP: netip.IPv4Unspecified(), HostPort: "8080"}}}),
			Config: &container.Config{Image: "nginx:1", Hostname: "010101010101", Entrypoint: []string{"/entry"}, Cmd: []string{"nginx", "-g", "daemon off;"}, Env: []string{"A=1"},
				ExposedPorts: apinet.PortSet{apinet.MustParsePort("80"): {}}, Labels: map[string]string{"app": "web"}, StopSignal: "SIGQUIT", Volumes: map[string]struct{}{"/anon": {}}},
			HostConfig: &container.HostConfig{NetworkMode: "bridge", Binds: []string{"/h:/b:ro", "data:/d"}, ShmSize: 64 << 20, Runtime: "hezi", IpcMode: "private", CgroupnsMode: "private",
				LogConfig: container.LogConfig{Type: "json-file"}, RestartPolicy: container.RestartPolicy{Name: "no"}, Tmpfs: map[string]string{"/t": ""},
				PortBindings: apinet.PortMap{apinet.MustParsePort("80/tcp"): {{HostPort: "8080"}}},
				Resources:    container.Resources{Memory: 64 << 20, PidsLimit: &pids}, Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/m"}}},
			Points: []spec.Point{{Type: mount.TypeBind, Source: "/h", Target: "/b", ReadOnly: true, Mode: "ro"}, {Type: mount.TypeVolume, Source: "data", Target: "/d"},
				{Type: mount.TypeVolume, Source: "anon", Target: "/anon"}, {Type: mount.TypeTmpfs, Target: "/t"}, {Type: mount.TypeTmpfs, Target: "/m"}}},
		"created": {Name: "new", State: container.StateCreated, Exit: 127, Error: "no such program", Finished: at,
			Config:     &container.Config{Cmd: []string{"bogus"}, Tty: true, OpenStdin: true},
			HostConfig: &container.HostConfig{NetworkMode: "none", Privileged: true, LogConfig: container.LogConfig{Type: "none"}, AutoRemove: true}},
		"host-exited": {Name: "done", State: container.StateExited, Exit: 137, OOM: true, Restarts: 2, Started: at, Finished: at.Add(time.Second),
			Config:     &container.Config{Cmd: []string{"sh"}},
			HostConfig: &container.HostConfig{NetworkMode: "host", LogConfig: container.LogConfig{Type: "local"}}},
		"host-running": {Name: "busy", State: container.StatePaused, PID: 2, Started: at, Config: &container.Config{Cmd: []string{"sh"}},
			HostConfig: &container.HostConfig{NetworkMode: "host"}},
	}
	for name, r := range records {
		t.Run(name, func(t *testing.T) {
			e := viewed(t, r)
			for _, x := range []string{"exec2", "exec1"} {
				if name == "running" {
					if err := e.index.Add(&execs.Execution{ID: x, Container: r.ID, Running: true, Config: execs.Config{AtOnce: true}}); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := e.Inspect(t.Context(), r.Name, false)
			if err != nil {
				t.Fatal(err)
			}
			got.HostConfig.MaskedPaths = slices.DeleteFunc(got.HostConfig.MaskedPaths, func(p string) bool { return strings.HasSuffix(p, "/thermal_throttle") })
			b, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "inspect-"+name+".json")
			if os.Getenv("HEZI_GOLDEN") == "write" {
				if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(b)+"\n"); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInspectJoinedNetwork(t *testing.T) {
	owner := &record{Name: "owner", State: container.StateRunning, Started: time.Now(), Net: sandbox(nil)}
	guest := &record{Name: "guest", State: container.StateRunning, Started: time.Now(), HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode("container:" + id(1))}}
	lost := &record{Name: "lost", State: container.StateExited, Started: time.Now(), HostConfig: &container.HostConfig{NetworkMode: "container:gone"}}
	e := viewed(t, owner, guest, lost)
	got, err := e.Inspect(t.Context(), "guest", true)
	if err != nil {
		t.Fatal(err)
	}
	if n := got.NetworkSettings; len(n.Networks)+len(n.Ports) > 0 || n.SandboxID != "" || got.HostsPath != "/data/containers/"+id(1)+"/hosts" || *got.SizeRw != 1000 {
		t.Errorf("%+v %s", n, got.HostsPath)
	}
	if got, err = e.Inspect(t.Context(), "lost", false); err != nil || got.HostsPath != "" {
		t.Error(got.HostsPath, err)
	}
	if _, err = e.Inspect(t.Context(), "nobody", false); !errdefs.IsNotFound(err) || err.Error() != "No such container: nobody" {
		t.Error(err)
	}
}

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	before, err := diskUsage(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	after, err := diskUsage(t.Context(), dir)
	if grown := after - before; err != nil || grown < 64<<10 || grown >= 128<<10 {
		t.Errorf("%d bytes more for 64 KiB with two names, %v", grown, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := diskUsage(ended, dir); err == nil {
		t.Error("a request that ended goes on")
	}
}

func TestVolumeUsers(t *testing.T) {
	e := viewed(t, several()...)
	if got := e.VolumeUsers("data"); !slices.Equal(got, []string{id(2)}) {
		t.Error(got)
	}
	if got := e.VolumeUsers("/host"); len(got) != 0 {
		t.Error("a bind is taken for a volume:", got)
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.FixedZone("x", 3600))
	for s, want := range map[string]time.Time{
		"90m":                       now.Add(-90 * time.Minute),
		"2026-11-01T10:00:00Z":      time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC),
		"2026-11-01T10:00:00":       time.Date(2026, 11, 1, 10, 0, 0, 0, now.Location()),
		"2026-11-01T10:00:00+01:00": time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC),
		"2026-11-01":                time.Date(2026, 11, 1, 0, 0, 0, 0, now.Location()),
		"1700000000":                time.Unix(1700000000, 0),
		"1700000000.5":              time.Unix(1700000000, 5e8),
	} {
		if got, err := disk.Moment(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "x", "1.x", "2026-13-01"} {
		if _, err := disk.Moment(s, now); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestTop(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := child.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = child.Wait() // killed: an error
	})
	group := t.TempDir()
	if err := os.Mkdir(filepath.Join(group, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, pid := range map[string]int{"cgroup.procs": os.Getpid(), "inner/cgroup.procs": child.Process.Pid} {
		if err := os.WriteFile(filepath.Join(group, name), []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := &record{Name: "it", State: container.StateRunning, PID: os.Getpid(), Started: time.Now(), Cgroups: map[string]string{"cpu": "/nonexistent", "memory": group}}
	e := viewed(t, r, &record{Name: "off", State: container.StateExited}, &record{Name: "loop", State: container.StateRestarting})
	column := func(resp container.TopResponse, title string) string {
		var values []string
		i := slices.Index(resp.Titles, title)
		for _, p := range resp.Processes {
			values = append(values, p[i])
		}
		slices.Sort(values)
		return strings.Join(values, " ")
	}
	pids := []string{strconv.Itoa(os.Getpid()), strconv.Itoa(child.Process.Pid)}
	slices.Sort(pids)
	for _, args := range [][]string{nil, {"aux"}, {"-o", "pid,comm"}} {
		resp, err := e.Top(t.Context(), "it", args)
		if err != nil || column(resp, "PID") != strings.Join(pids, " ") {
			t.Errorf("%q: %+v %v", args, resp, err)
		}
	}
	for _, c := range []struct {
		ref   string
		args  []string
		want  string
		class func(error) bool
	}{
		{"off", nil, "container " + id(2) + " is not running", errdefs.IsConflict},
		{"loop", nil, "Container " + id(3) + " is restarting, wait until the container is running", errdefs.IsConflict},
		{"it", []string{"-o", "comm"}, "Couldn't find PID field in ps output", errdefs.IsInvalidArgument},
		{"it", []string{"-o", "uid=PID"}, `specifying "uid=PID" is not allowed`, errdefs.IsInvalidArgument},
		{"it", []string{"--bogus"}, "ps: error: unknown gnu long option", errdefs.IsInvalidArgument},
	} {
		if _, err := e.Top(t.Context(), c.ref, c.args); err == nil || !strings.HasPrefix(err.Error(), c.want) || !c.class(err) {
			t.Errorf("%s %q: %v, want %q", c.ref, c.args, err, c.want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	resp, err := e.Top(t.Context(), "it", nil)
	if err != nil || column(resp, "PID") != strings.Join(pids, " ") || !strings.Contains(column(resp, "CMD"), "sleep 60") || column(resp, "UID") != "root root" {
		t.Errorf("without ps: %+v %v", resp, err)
	}
	if _, err := e.Top(t.Context(), "it", []string{"aux"}); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}
