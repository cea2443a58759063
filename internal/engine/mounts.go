package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	apinet "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/sys/mountinfo"

	"hezi/internal/box"
	"hezi/internal/engine/spec"
	"hezi/internal/engine/users"
	"hezi/internal/image"
	"hezi/internal/network"
	"hezi/internal/network/hostfiles"
	"hezi/internal/snapshot"
	hostvolume "hezi/internal/volume"
)

// checkPoints refuses bind sources that are missing, before anything is made.
func checkPoints(points []spec.Point) error {
	for _, p := range points {
		if p.Type != mount.TypeBind || p.Create {
			continue
		}
		if _, err := os.Stat(p.Source); errors.Is(err, fs.ErrNotExist) {
			return missingSource(p.Source)
		}
	}
	return nil
}

func missingSource(path string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid mount config for type \"bind\": bind source path does not exist: %s: make it first, or use -v, which makes a folder", path))
}

// release gives back what a start took of the other rooms.
func release(e *records, r *record) {
	e.o.Networks.Release(r.ID)
	roots{e}.release(r)
	e.o.Volumes.Unmount(r.ID, r.volumes())
}

// volumes are the names of a container's volumes.
func (r *record) volumes() (names []string) {
	for _, p := range r.Points {
		if p.Type == mount.TypeVolume {
			names = append(names, p.Source)
		}
	}
	return names
}

// mounts turns what was asked for into mounts of the host's paths. release must follow.
func (e launcher) mounts(ctx context.Context, r *record) ([]box.Mount, error) {
	var list []box.Mount
	owners := users.Owners{Mode: r.HostConfig.UsernsMode, Users: r.Users, User: r.Config.User, Root: func() (*os.File, error) { return roots(e).view(ctx, r, r.ID) }}
	for _, p := range r.Points {
		m := box.Mount{Type: box.MountBind, Target: p.Target, ReadOnly: p.ReadOnly, ReadOnlyTop: p.ReadOnlyTop,
			Recursive: !p.NonRecursive, Propagation: p.Propagation, Subpath: p.Subpath}
		switch p.Type {
		case mount.TypeTmpfs:
			t, err := spec.Tmpfs(p)
			if err != nil {
				return nil, err
			}
			list = append(list, t)
			continue
		case mount.TypeVolume:
			v, err := e.o.Volumes.Mount(ctx, p.Source, hostvolume.Use{Container: r.ID, Destination: p.Target, Propagation: p.Propagation, Writable: !p.ReadOnly})
			if err != nil {
				return nil, fmt.Errorf("the volume for %s: %w", p.Target, err)
			}
			// As Docker, which copies when a container is made: what a user removed
			// later does not come back, and what lives in memory begins empty.
			m.Source, m.CopyUp = v.Mountpoint, !p.NoCopy && r.Started.IsZero() && v.Options["type"] != "tmpfs"
		case mount.TypeBind:
			if err := bindSource(p); err != nil {
				return nil, err
			}
			m.Source = p.Source
			if err := propagates(p); err != nil {
				return nil, err
			}
		case mount.TypeImage:
			if err := e.mountedImage(ctx, r, p, &m); err != nil {
				return nil, err
			}
		}
		if p.Type != mount.TypeImage {
			if err := r.relabel(p, m.Source); err != nil {
				return nil, err
			}
		}
		var err error
		if m.Owners, err = owners.Of(p.Owners, p.Source, p.Target, p.Type == mount.TypeVolume); err != nil {
			return nil, err
		}
		if p.Give {
			if err := given(&owners, p, &m); err != nil {
				return nil, err
			}
		}
		if m.Propagation == "" {
			m.Propagation = "rprivate"
		}
		list = append(list, m)
	}
	return list, nil
}

// given has a mount belong to the container's user; what is copied into a new volume is
// given after that.
func given(owners *users.Owners, p spec.Point, m *box.Mount) error {
	if !m.CopyUp {
		return owners.Give(m.Source, p.Target, m.Owners != nil)
	}
	id, err := owners.Who()
	m.Give = &id
	return err
}

// mountedImage are the layers of an image that is mounted, above an empty one:
// the kernel wants two at least where none is written to.
func (e launcher) mountedImage(ctx context.Context, r *record, p spec.Point, m *box.Mount) error {
	root, err := e.o.Images.RootFS(ctx, &image.Image{ID: p.Image.ID, Manifest: p.Image.Manifest, Layers: p.Image.Layers})
	if err != nil {
		return fmt.Errorf("the image for %s: %w", p.Target, err)
	}
	m.Type, m.Source, m.Recursive = box.MountImage, p.Source, false
	if _, whole := e.o.Layers.(*snapshot.Whole); whole && len(root.Lower) > 0 {
		m.Type, m.Source, m.ReadOnly = box.MountBind, root.Lower[0], true
		return nil
	}
	e.o.Images.Touch(p.Image.ID)
	empty := filepath.Join(e.folder(r.ID), "empty")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		return fmt.Errorf("the container's folder: %w", err)
	}
	m.Layers = &box.Overlay{Lower: append(slices.Clip(root.Lower), empty)}
	return nil
}

// propagates refuses to have mounts propagate to or from a mount of the host
// that is not shared; it reads nothing where that is not asked for.
func propagates(p spec.Point) error {
	need := strings.TrimPrefix(p.Propagation, "r")
	if need != "shared" && need != "slave" {
		return nil
	}
	real, err := filepath.EvalSymlinks(p.Source)
	if err != nil {
		return fmt.Errorf("the bind source %s: %w", p.Source, err)
	}
	list, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return fmt.Errorf("the host's mounts: %w", err)
	}
	var at *mountinfo.Info
	for _, m := range list { // the last of the deepest lies on top
		if at == nil || len(m.Mountpoint) >= len(at.Mountpoint) {
			at = m
		}
	}
	if at == nil {
		return fmt.Errorf("the mount that the bind source %s is on is not known", p.Source)
	}
	if strings.Contains(at.Optional, "shared:") || need == "slave" && strings.Contains(at.Optional, "master:") {
		return nil
	}
	what := "shared mount"
	if need == "slave" {
		what = "shared or slave mount"
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("path %s is mounted on %s but it is not a %s: make it one by `mount --make-shared %s`, or leave out the propagation",
		p.Source, at.Mountpoint, what, at.Mountpoint))
}

// inherited are the mounts that --volumes-from takes over.
func (e *records) inherited(h *container.HostConfig) ([]spec.Point, error) {
	var list []spec.Point
	for _, from := range h.VolumesFrom {
		ref, readOnly, err := spec.VolumesFrom(from)
		if err != nil {
			return nil, err
		}
		c, err := e.entry(ref)
		if err != nil { // not the class of a missing image, which clients would pull
			return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		list = spec.Inherit(list, c.latest.Load().Points, readOnly)
	}
	return list, nil
}

// makePoints makes the volumes of a new container and takes hold of the images
// that it mounts. undo gets what takes that back.
func (e *records) makePoints(ctx context.Context, r *record, undo *[]func() error) error {
	undoing := context.WithoutCancel(ctx)
	for i := range r.Points {
		p := &r.Points[i]
		switch p.Type {
		case mount.TypeVolume:
			made := p.Source == ""
			v, err := e.o.Volumes.Create(ctx, volume.CreateRequest{Name: p.Source, Driver: p.Driver, DriverOpts: p.DriverOptions, Labels: p.Labels})
			if errdefs.IsNotFound(err) { // not the class of a missing image, which clients would pull
				err = errdefs.ErrInvalidArgument.WithMessage(err.Error())
			}
			if err != nil {
				return err
			}
			p.Source = v.Name
			if made {
				p.Anonymous = true
				*undo = append(*undo, func() error { return e.o.Volumes.Remove(undoing, v.Name, true) })
			}
			if p.Anonymous { // also one that is taken over: the last container that goes takes it along
				r.Anonymous = append(r.Anonymous, v.Name)
			}
		case mount.TypeImage:
			img, err := e.o.Images.Resolve(ctx, p.Source, nil)
			if errdefs.IsNotFound(err) { // clients would pull the container's own image
				err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%v: it is to be mounted at %s: pull it first", err, p.Target))
			}
			if err != nil {
				return err
			}
			p.Image = &spec.PointImage{ID: img.ID, Manifest: img.Manifest, Layers: img.Layers}
			hold := imageHold(r, p)
			if err := e.o.Images.Pin(ctx, img, hold); err != nil {
				return err
			}
			*undo = append(*undo, func() error { return e.o.Images.Unpin(undoing, hold) })
		}
	}
	return nil
}

// imageHold names a container's hold on an image that it mounts.
func imageHold(r *record, p *spec.Point) string { return r.ID + ":" + p.Target }

// mountedImages are a container's mounts of images.
func (r *record) mountedImages() []*spec.Point {
	var list []*spec.Point
	for i := range r.Points {
		if p := &r.Points[i]; p.Type == mount.TypeImage && p.Image != nil {
			list = append(list, p)
		}
	}
	return list
}

func bindSource(p spec.Point) error {
	_, err := os.Stat(p.Source)
	if errors.Is(err, fs.ErrNotExist) && p.Create {
		err = os.MkdirAll(p.Source, 0o755)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missingSource(p.Source)
	case err != nil:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("error while creating mount source path '%s': %v", p.Source, err))
	}
	return nil
}

// published are the ports that a container asks for on the host: -p, and with
// -P every exposed one.
func (r *record) published() apinet.PortMap {
	ports := maps.Clone(r.HostConfig.PortBindings)
	if ports == nil {
		ports = apinet.PortMap{}
	}
	if r.HostConfig.PublishAllPorts {
		for p := range r.Config.ExposedPorts {
			if _, ok := ports[p]; !ok {
				ports[p] = []apinet.PortBinding{{}}
			}
		}
	}
	return ports
}

// etc names the files that the engine writes for a container, by their places inside.
var etc = [...]string{"resolv.conf", "hostname", "hosts"}

// writeFiles writes /etc/hosts, hostname and resolv.conf and returns their mounts.
func (e launcher) writeFiles(r *record, s *network.Sandbox) ([]box.Mount, error) {
	owner := r
	for _, dir := range []string{e.folder(r.ID), filepath.Dir(e.etcFile(r, "x"))} {
		if err := os.Mkdir(dir, 0o710); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("the container's folder: %w", err)
		}
	}
	if r.HostConfig.NetworkMode.IsContainer() {
		var err error
		if owner, err = e.joined(r); err != nil {
			return nil, err
		}
	} else if err := e.writeOwn(r, s); err != nil {
		return nil, err
	}
	mine := map[string]bool{}
	for _, p := range r.Points {
		mine[p.Target] = true
	}
	var list []box.Mount
	for _, name := range etc {
		if target := "/etc/" + name; !mine[target] {
			list = append(list, box.Mount{Type: box.MountBind, Source: e.etcFile(owner, name), Target: target,
				ReadOnly: r.HostConfig.ReadonlyRootfs, Propagation: "rprivate"})
		}
	}
	return list, nil
}

func (e launcher) writeOwn(r *record, s *network.Sandbox) error {
	hosts, err := hostfiles.Hosts(s.Addresses(), r.Config.Hostname, r.Config.Domainname, nil, r.HostConfig.ExtraHosts, hostGateways(&e.o))
	if err != nil {
		return err
	}
	if list := linksOf(e.records, r); len(list) > 0 {
		hosts = hostfiles.Linked(hosts, list)
	}
	if r.HostConfig.NetworkMode.IsHost() && len(r.HostConfig.ExtraHosts) == 0 {
		if theirs, err := os.ReadFile("/etc/hosts"); err == nil {
			hosts = theirs // in the host's network its names are right
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the host's names: %w", err)
		}
	}
	resolv, err := e.resolvConf(r, s)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{"hosts", hosts}, {"hostname", hostfiles.Hostname(r.Config.Hostname)}, {"resolv.conf", resolv}} {
		err := os.WriteFile(e.etcFile(r, f.name), f.text, 0o644)
		if err == nil && r.Users != nil { // whose root may write them, as elsewhere
			uid, gid, _ := r.Users.Root()
			err = os.Chown(e.etcFile(r, f.name), int(uid), int(gid))
		}
		if err != nil {
			return fmt.Errorf("the container's /etc/%s: %w", f.name, err)
		}
	}
	return nil
}

// hostGateways are what host-gateway means in --add-host.
func hostGateways(o *Options) []netip.Addr {
	if o.Defaults.HostGateway != nil {
		return o.Defaults.HostGateway
	}
	return o.Networks.Gateways()
}
