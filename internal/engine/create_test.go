package engine

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/events"
	"hezi/internal/image"
	"hezi/internal/snapshot"
	"hezi/internal/store"
	"hezi/internal/volume"
)

// fakeImages has one image and remembers who holds it.
type fakeImages struct{ pins map[string]bool }

func (f *fakeImages) Resolve(_ context.Context, ref string, _ *ocispec.Platform) (*image.Image, error) {
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

func (f *fakeImages) RootFS(context.Context, *image.Image) (image.RootFS, error) {
	return image.RootFS{}, nil
}

// fakeLayers counts writable layers.
type fakeLayers map[string]bool

func (f fakeLayers) Create(id string) (snapshot.Writable, error) {
	f[id] = true
	return snapshot.Writable{}, nil
}
func (f fakeLayers) Get(string) snapshot.Writable  { return snapshot.Writable{} }
func (f fakeLayers) Base() string                  { return "" }
func (f fakeLayers) Remove(id string) error        { delete(f, id); return nil }
func (f fakeLayers) Size(string) (int64, error)    { return 0, nil }
func (f fakeLayers) Sweep(func(string) bool) error { return nil }

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
	o := Options{DataRoot: data, ExecRoot: run, Store: db, Images: img, Volumes: vols, Events: events.New(), Layers: fakeLayers{}}
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
	bad := &container.HostConfig{Binds: []string{"/fine", "-:/x"}}
	if _, err := e.Create(ctx, CreateRequest{Name: "bad", Config: config, HostConfig: bad}); !errdefs.IsInvalidArgument(err) {
		t.Fatal(err)
	}
	if list, _ := vols.List(ctx, nil); len(list) != 1 || len(img.pins) != 2 {
		t.Fatalf("%d volumes and %d pins are left", len(list), len(img.pins))
	}
	if e, err = New(o); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kept", "brief"} {
		if _, err := e.names.resolve(name); err != nil {
			t.Error(err)
		}
	}
	if err := e.Rename(ctx, "kept", "moved"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.names.resolve("bad"); err == nil {
		t.Error("a failed create left its name")
	}
}
