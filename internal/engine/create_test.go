package engine

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/box"
	"hezi/internal/engine/attach"
	"hezi/internal/events"
	"hezi/internal/image"
	"hezi/internal/snapshot"
	"hezi/internal/store"
	"hezi/internal/volume"
)

// fakeImages has one image and remembers who holds it.
type fakeImages struct{ pins map[string]bool }

func (f *fakeImages) Resolve(_ context.Context, ref string, _ *ocispec.Platform) (*image.Image, error) {
	if strings.Contains(ref, "=") {
		return nil, errdefs.ErrInvalidArgument.WithMessage("invalid reference format")
	}
	if ref != "busybox" {
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
	}
	return &image.Image{ID: "sha256:1"}, nil
}
func (f *fakeImages) Pin(_ context.Context, _ *image.Image, id string) error {
	f.pins[id] = true
	return nil
}
func (f *fakeImages) Unpin(_ context.Context, id string) error { delete(f.pins, id); return nil }

func (f *fakeImages) Touch(digest.Digest) {}

func (f *fakeImages) RootFS(context.Context, *image.Image) (image.RootFS, error) {
	return image.RootFS{}, nil
}

// fakeLayers counts writable layers. It has no snapshots.
type fakeLayers map[string]bool

func (fakeLayers) Grow(context.Context, string, snapshot.Chain) (snapshot.Chain, error) {
	return nil, errors.ErrUnsupported
}
func (fakeLayers) Copy(context.Context, string, snapshot.Chain) (snapshot.Chain, error) {
	return nil, errors.ErrUnsupported
}
func (fakeLayers) Keep(string, ...snapshot.Chain) error                  { return nil }
func (fakeLayers) SizeOf(context.Context, string, string) (int64, error) { return 0, nil }
func (fakeLayers) CanLimit(int64) error                                  { return nil }
func (fakeLayers) Flatten(context.Context, string, string, string) (string, bool, error) {
	return "", false, errors.ErrUnsupported
}

func (fakeLayers) Limit(string, int64) error { return nil }

func (f fakeLayers) Create(_ context.Context, id string, _ snapshot.Image) error {
	f[id] = true
	return nil
}
func (fakeLayers) Name() string { return defaultDriver }
func (fakeLayers) Root(context.Context, string, snapshot.Chain, []string) (box.Root, error) {
	return box.Root{Overlay: &box.Overlay{}}, nil
}
func (fakeLayers) View(context.Context, string, snapshot.Chain, []string, bool) (snapshot.View, error) {
	return snapshot.View{}, nil
}
func (fakeLayers) Place(string, snapshot.Chain) string          { return "" }
func (fakeLayers) Get(string, snapshot.Chain) snapshot.Writable { return snapshot.Writable{} }
func (fakeLayers) Base() string                                 { return "" }
func (fakeLayers) Release(string) error                         { return nil }
func (f fakeLayers) Remove(id string) error                     { delete(f, id); return nil }
func (fakeLayers) Size(context.Context, string) (int64, error)  { return 0, nil }
func (fakeLayers) Restore(string, snapshot.Chain) (bool, error) { return false, nil }
func (fakeLayers) Sweep(func(string) bool) error                { return nil }

func TestCreateSurvivesAndUndoes(t *testing.T) {
	data, run := t.TempDir(), t.TempDir()
	db, err := store.Open(filepath.Join(data, "hezi.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	vols, err := volume.Open(data, db)
	if err != nil {
		t.Fatal(err)
	}
	img := &fakeImages{pins: map[string]bool{}}
	o := Options{DataRoot: data, ExecRoot: run, Store: db, Images: img, Volumes: vols, Events: events.New(), Layers: fakeLayers{}, Networks: namedNetworks{}}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	config := &container.Config{Image: "busybox", Cmd: []string{"true"}}
	for _, q := range []CreateRequest{
		{Name: "kept", Config: config},
		{Name: "brief", Config: config, HostConfig: &container.HostConfig{AutoRemove: true, Binds: []string{"/anonymous"}}},
	} {
		if _, err := e.Create(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(port string, b network.PortBinding) network.PortMap {
		return network.PortMap{network.MustParsePort(port): {b}}
	}
	for want, bad := range map[string]*container.HostConfig{
		"volume name":                                       {Binds: []string{"/fine", "-:/x"}},
		"invalid host port \"99999\" for 80/tcp":            {PortBindings: bind("80/tcp", network.PortBinding{HostPort: "99999"})},
		"invalid port range: 90-80":                         {PortBindings: bind("80/tcp", network.PortBinding{HostPort: "90-80"})},
		"bad format for add-host":                           {ExtraHosts: []string{"x"}},
		"Requested CPUs are not available - requested 4000": {Resources: container.Resources{CpusetCpus: "4000"}},
		"write a list such as 0-1":                          {Resources: container.Resources{CpusetCpus: "all"}},
	} {
		_, err := e.Create(ctx, CreateRequest{Name: "bad", Config: config, HostConfig: bad})
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := e.Create(ctx, CreateRequest{Config: &container.Config{Image: "A=b"}}); err == nil || !strings.Contains(err.Error(), "write -e A=b") {
		t.Error(err)
	}
	if list, _ := vols.List(ctx, nil); len(list) != 1 || len(img.pins) != 2 {
		t.Fatalf("%d volumes and %d pins are left", len(list), len(img.pins))
	}
	if e, err = New(o); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kept", "brief"} {
		if _, err := e.names.Resolve(name); err != nil {
			t.Error(err)
		}
	}
	if err := e.Rename(ctx, "kept", "moved"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.names.Resolve("bad"); err == nil {
		t.Error("a failed create left its name")
	}
}

// Every setting of an endpoint is honoured or refused, but what only tells
// about one that exists: clients send back what inspect gave them.
func TestNoEndpointSettingIsIgnored(t *testing.T) {
	told := []string{"NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "DNSNames"}
	refused := network.EndpointSettings{
		IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.IPv4Unspecified()}, Links: []string{"a"}, Aliases: []string{"a"},
		DriverOpts: map[string]string{"a": "b"}, GwPriority: 1, MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1},
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[network.EndpointSettings]()) {
		s := &network.EndpointSettings{}
		reflect.ValueOf(s).Elem().FieldByIndex(f.Index).Set(reflect.ValueOf(refused).FieldByIndex(f.Index))
		zero := reflect.ValueOf(s).Elem().IsZero()
		w, err := attach.Check(&network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"bridge": s}}, &container.HostConfig{})
		switch {
		case zero && !slices.Contains(told, f.Name):
			t.Errorf("nothing says what %s does", f.Name)
		case !zero && err == nil && !reflect.DeepEqual(w["bridge"], s):
			t.Errorf("%s is ignored", f.Name)
		}
	}
}
