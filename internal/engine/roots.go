package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"hezi/internal/box"
	"hezi/internal/image"
	"hezi/internal/snapshot"
)

// roots are containers' file systems, at the storage driver.
type roots struct{ *records }

// defaultDriver is that of records which do not say theirs.
const defaultDriver = "overlay2"

func (r *record) driver() string {
	if r.Driver == "" {
		return defaultDriver
	}
	return r.Driver
}

// alike says whether two drivers keep what is a container's own in the same form.
func alike(a, b string) bool {
	kernel := func(name string) bool { return name == "overlay2" || name == "erofs" }
	return a == b || kernel(a) && kernel(b)
}

// here refuses a container whose file system another driver has.
func (e roots) here(r *record) error {
	if alike(r.driver(), e.o.Layers.Name()) {
		return nil
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
		"container %s keeps its files by the storage driver %s, and hezid uses %s now: nothing of it is lost; start hezid with --storage-driver=%s to use it, and to bring it over, `hezi commit` it there and run the new image here",
		r.Name, r.driver(), e.o.Layers.Name(), r.driver()))
}

// make makes the file system of a new container.
func (e roots) make(ctx context.Context, r *record) error {
	if name := e.o.Layers.Name(); name != defaultDriver {
		r.Driver = name
	}
	img := snapshot.Image{Lower: func(ctx context.Context) ([]string, error) {
		root, err := e.o.Images.RootFS(ctx, r.image())
		return root.Lower, err
	}}
	if n := len(r.Layers); n > 0 {
		img.Chain = r.Layers[n-1].String()
	}
	return e.o.Layers.Create(ctx, r.ID, img)
}

// mounted is what a start mounts.
func (e roots) mounted(ctx context.Context, r *record, img image.RootFS) (box.Root, error) {
	if err := e.here(r); err != nil {
		return box.Root{}, err
	}
	root, err := e.o.Layers.Root(ctx, r.ID, r.Chain, img.Lower)
	if err != nil || root.Overlay == nil {
		return root, err
	}
	root.Overlay.Volatile = r.HostConfig.AutoRemove
	if r.Started.IsZero() || !root.Overlay.Volatile {
		return root, nil
	}
	// The kernel marks a layer that was mounted volatile, since a crash may have
	// spoiled it, and refuses it then; the machine has not crashed since, or this
	// container would be gone (filesystems/overlayfs, "Volatile mount").
	if err := os.RemoveAll(filepath.Join(root.Overlay.Work, "work", "incompat", "volatile")); err != nil {
		return box.Root{}, fmt.Errorf("the container's writable layer: %w", err)
	}
	return root, nil
}

// release ends what a start mounted.
func (e roots) release(r *record) {
	if err := e.o.Layers.Release(r.ID); err != nil {
		e.o.Log.Warn("a container's file system is left mounted", "container", r.ID, "error", err)
	}
}

// look shows a container's file system as it is without what is mounted in it.
func (e roots) look(ctx context.Context, r *record, readOnly bool) (snapshot.View, error) {
	if err := e.here(r); err != nil {
		return snapshot.View{}, err
	}
	layers, err := e.o.Images.RootFS(ctx, r.image())
	if err != nil {
		return snapshot.View{}, err
	}
	return e.o.Layers.View(ctx, r.ID, r.Chain, layers.Lower, !readOnly)
}

// view opens the root directory of a container's file system, or with id "" of
// its image's, to be read.
func (e roots) view(ctx context.Context, r *record, id string) (*os.File, error) {
	if err := e.here(r); err != nil {
		return nil, err
	}
	layers, err := e.o.Images.RootFS(ctx, r.image())
	if err != nil {
		return nil, err
	}
	v, err := e.o.Layers.View(ctx, id, r.Chain, layers.Lower, false)
	if err != nil {
		return nil, err
	}
	f, err := v.Open()
	if derr := v.Done(); derr != nil {
		e.o.Log.Warn("a view of a container's file system is left mounted", "container", r.ID, "error", derr)
	}
	return f, err
}
