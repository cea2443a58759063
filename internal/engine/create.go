package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"

	"hezi/internal/engine/spec"
)

// Create makes a container's record, its volumes and the hold on its image.
func (e *Engine) Create(ctx context.Context, q CreateRequest) (_ container.CreateResponse, err error) {
	if q.Config == nil {
		return container.CreateResponse{}, errdefs.ErrInvalidArgument.WithMessage("config cannot be empty in order to create a container")
	}
	host := q.HostConfig
	if host == nil {
		host = &container.HostConfig{}
	}
	if err := spec.Check(q.Config, host); err != nil {
		return container.CreateResponse{}, err
	}
	img, err := e.o.Images.Resolve(ctx, q.Config.Image, q.Platform)
	if err != nil {
		return container.CreateResponse{}, err
	}
	config, err := spec.Merge(*q.Config, img.Config.Config)
	if err != nil {
		return container.CreateResponse{}, err
	}
	if _, err := spec.Capabilities(host.CapAdd, host.CapDrop, host.Privileged); err != nil {
		return container.CreateResponse{}, err
	}
	r := &record{ID: newID(), Created: time.Now().UTC(), ImageID: img.ID.String(), Config: &config, HostConfig: host, State: container.StateCreated}
	if r.Points, err = spec.Points(&config, host); err != nil {
		return container.CreateResponse{}, err
	}
	if config.Hostname == "" {
		config.Hostname = r.ID[:12]
	}
	undoing := context.WithoutCancel(ctx)
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	if r.Name, err = e.names.reserve(r.ID, q.Name); err != nil {
		return container.CreateResponse{}, err
	}
	undo = append(undo, func() error { e.names.release(r.ID); return nil })
	if err = e.o.Images.Pin(ctx, img, r.ID); err != nil {
		return container.CreateResponse{}, err
	}
	undo = append(undo, func() error { return e.o.Images.Unpin(undoing, r.ID) })
	for i := range r.Points {
		p := &r.Points[i]
		if p.Type != mount.TypeVolume {
			continue
		}
		anonymous := p.Source == ""
		v, err := e.o.Volumes.Create(ctx, volume.CreateRequest{Name: p.Source})
		if err != nil {
			return container.CreateResponse{}, err
		}
		p.Source = v.Name
		if anonymous {
			r.Anonymous = append(r.Anonymous, v.Name)
			undo = append(undo, func() error { return e.o.Volumes.Remove(undoing, v.Name, true) })
		}
	}
	if err = e.save(r); err != nil {
		return container.CreateResponse{}, err
	}
	e.add(r)
	e.publish(r, "create")
	return container.CreateResponse{ID: r.ID, Warnings: []string{}}, nil
}

func newID() string {
	var id [32]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}
