package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

func TestPoints(t *testing.T) {
	h := container.HostConfig{
		Binds: []string{"/h/../srv:/a/", "/h:/b:ro,rslave", "data:/c:nocopy", "/anon", "/mac:/d:delegated"},
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: "/x/", Target: "/e", ReadOnly: true, BindOptions: &mount.BindOptions{Propagation: mount.PropagationShared}},
			{Type: mount.TypeVolume, Target: "/f"},
			{Type: mount.TypeTmpfs, Target: "/g", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o700}},
		},
		Tmpfs: map[string]string{"/h": "size=1m"},
	}
	got, err := Points(&container.Config{Volumes: map[string]struct{}{"/c": {}, "/image/": {}}}, &h, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []Point{
		{Type: mount.TypeBind, Source: "/srv", Target: "/a", Create: true},
		{Type: mount.TypeBind, Source: "/h", Target: "/b", Create: true, ReadOnly: true, Propagation: "rslave", Mode: "ro,rslave"},
		{Type: mount.TypeVolume, Source: "data", Target: "/c", Create: true, NoCopy: true, Mode: "nocopy"},
		{Type: mount.TypeVolume, Target: "/anon", Create: true},
		{Type: mount.TypeBind, Source: "/mac", Target: "/d", Create: true, Mode: "delegated"},
		{Type: mount.TypeBind, Source: "/x", Target: "/e", ReadOnly: true, Propagation: "shared"},
		{Type: mount.TypeVolume, Target: "/f"},
		{Type: mount.TypeTmpfs, Target: "/g", Data: "size=1048576,mode=700"},
		{Type: mount.TypeTmpfs, Target: "/h", Data: "size=1m"},
		{Type: mount.TypeVolume, Target: "/image"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Before API version 1.44, and not for what another container brings.
	older, err := Points(&container.Config{}, &h, []Point{{Type: mount.TypeBind, Source: "/o", Target: "/o", ReadOnly: true}}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range older {
		if want := p.Target == "/b" || p.Target == "/e"; p.ReadOnlyTop != want {
			t.Errorf("read-only at its top only: %+v", p)
		}
	}
}

func TestBadPoints(t *testing.T) {
	for _, c := range []struct {
		h    container.HostConfig
		want string
	}{
		{container.HostConfig{Binds: []string{"/a:/x:rw:z"}}, "invalid volume specification: '/a:/x:rw:z'"},
		{container.HostConfig{Binds: []string{":/x"}}, "invalid volume specification: ':/x'"},
		{container.HostConfig{Binds: []string{"/a:/x:wrong"}}, "invalid mode: wrong"},
		{container.HostConfig{Binds: []string{"/a:/"}}, "destination can't be '/'"},
		{container.HostConfig{Binds: []string{"/a:/x"}, Tmpfs: map[string]string{"/x/": ""}}, "Duplicate mount point: /x"},
		{container.HostConfig{Tmpfs: map[string]string{"/x": "size=1m,colour=red"}}, `invalid tmpfs option "colour=red"`},
		{container.HostConfig{Tmpfs: map[string]string{"run": ""}}, "write a leading slash, '/run'"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "rel", Target: "/x"}}}, "invalid mount path: 'rel' mount path must be absolute"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: "npipe", Target: "/x"}}}, "mount type unknown"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/a", Target: "/x", BindOptions: &mount.BindOptions{ReadOnlyNonRecursive: true}}}}, "conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/a", Target: "/x", BindOptions: &mount.BindOptions{ReadOnlyForceRecursive: true}}}}, "conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive"},
		{container.HostConfig{Binds: []string{"/a:/x:ro,rw"}}, "rw contradicts or repeats another option"},
		{container.HostConfig{Binds: []string{"a:/x:idmap"}}, "a volume does not"},
	} {
		_, err := Points(&container.Config{}, &c.h, nil, false)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("%v has no class", err)
		}
	}
}

func TestTmpfs(t *testing.T) {
	for data, want := range map[string]string{
		"":                             "nosuid,nodev,noexec",
		"rw,noexec,nosuid,size=65536k": "nosuid,nodev,noexec,size=65536k",
		"ro,exec,suid,dev,mode=1770":   "ro,mode=1770",
		"ro,rw,noatime,uid=5":          "nosuid,nodev,noexec,noatime,uid=5",
	} {
		m := mustTmpfs(t, Point{Target: "/t", Data: data})
		var o []string
		for _, f := range []struct {
			name string
			set  bool
		}{{"ro", m.ReadOnly}, {"nosuid", m.NoSuid}, {"nodev", m.NoDev}, {"noexec", m.NoExec}, {m.Data, m.Data != ""}} {
			if f.set {
				o = append(o, f.name)
			}
		}
		if got := strings.Join(o, ","); got != want {
			t.Errorf("%q: %s, want %s", data, got, want)
		}
	}
}

func TestMergeAll(t *testing.T) {
	var img dockerspec.DockerOCIImageConfig
	img.User, img.WorkingDir, img.StopSignal = "app", "/w", "SIGQUIT"
	img.Cmd, img.Labels = []string{"run"}, map[string]string{"a": "image", "b": "image"}
	img.Volumes, img.ExposedPorts = map[string]struct{}{"/v": {}}, map[string]struct{}{"80/tcp": {}, "53/udp": {}}
	c, err := Merge(container.Config{Labels: map[string]string{"a": "mine"}, ExposedPorts: network.PortSet{network.MustParsePort("81"): {}}}, img)
	if err != nil {
		t.Fatal(err)
	}
	if c.User != "app" || c.WorkingDir != "/w" || c.StopSignal != "SIGQUIT" || !slices.Equal(c.Cmd, img.Cmd) || c.Labels["a"] != "mine" || c.Labels["b"] != "image" {
		t.Errorf("%+v", c)
	}
	if _, ok := c.Volumes["/v"]; !ok || len(c.ExposedPorts) != 3 {
		t.Errorf("%+v", c)
	}
	if img.Labels["a"] != "image" || len(img.ExposedPorts) != 2 {
		t.Error("the image's configuration was changed")
	}
	for _, bad := range []container.Config{{WorkingDir: "relative"}, {Entrypoint: []string{""}}} {
		if _, err := Merge(bad, img); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
