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
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"
	apinet "github.com/moby/moby/api/types/network"

	"hezi/internal/box"
	"hezi/internal/engine/spec"
	"hezi/internal/keeper"
	"hezi/internal/network"
	"hezi/internal/network/hostfiles"
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

// mounts turns what was asked for into mounts of the host's paths.
func (e launcher) mounts(ctx context.Context, r *record) ([]box.Mount, error) {
	var list []box.Mount
	for _, p := range r.Points {
		m := box.Mount{Type: box.MountBind, Target: p.Target, ReadOnly: p.ReadOnly, Recursive: true, Propagation: p.Propagation}
		switch p.Type {
		case mount.TypeTmpfs:
			t, err := spec.Tmpfs(p)
			if err != nil {
				return nil, err
			}
			list = append(list, t)
			continue
		case mount.TypeVolume:
			v, err := e.o.Volumes.Get(ctx, p.Source)
			if err != nil {
				return nil, fmt.Errorf("the volume for %s: %w", p.Target, err)
			}
			m.Source, m.CopyUp = v.Mountpoint, !p.NoCopy
		case mount.TypeBind:
			if err := bindSource(p); err != nil {
				return nil, err
			}
			m.Source = p.Source
		}
		if m.Propagation == "" {
			m.Propagation = "rprivate"
		}
		list = append(list, m)
	}
	return list, nil
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
	d := e.o.Defaults
	gateway := d.HostGateway
	if !gateway.IsValid() {
		gateway = e.o.Networks.Gateway()
	}
	var addr netip.Addr
	if s != nil {
		addr = s.Endpoint.IPAddress
	}
	hosts, err := hostfiles.Hosts(addr, r.Config.Hostname, r.Config.Domainname, nil, r.HostConfig.ExtraHosts, gateway)
	if err != nil {
		return err
	}
	if r.HostConfig.NetworkMode.IsHost() && len(r.HostConfig.ExtraHosts) == 0 {
		if theirs, err := os.ReadFile("/etc/hosts"); err == nil {
			hosts = theirs // in the host's network its names are right
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the host's names: %w", err)
		}
	}
	resolv, err := e.resolvConf(r)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{"hosts", hosts}, {"hostname", hostfiles.Hostname(r.Config.Hostname)}, {"resolv.conf", resolv}} {
		if err := os.WriteFile(e.etcFile(r, f.name), f.text, 0o644); err != nil {
			return fmt.Errorf("the container's /etc/%s: %w", f.name, err)
		}
	}
	return nil
}

func (e launcher) resolvConf(r *record) ([]byte, error) {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the host's name servers: %w", err)
	}
	h := r.HostConfig
	if h.NetworkMode.IsHost() && len(h.DNS)+len(h.DNSSearch)+len(h.DNSOptions) == 0 {
		return host, nil
	}
	if hostfiles.UsesStub(host) {
		if real, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			host = real
		}
	}
	d := e.o.Defaults
	dns, search, options := h.DNS, h.DNSSearch, h.DNSOptions
	if len(dns) == 0 {
		dns = d.DNS
	}
	if len(search) == 0 {
		search = d.DNSSearch
	}
	if len(options) == 0 {
		options = d.DNSOptions
	}
	return hostfiles.ResolvConf(host, dns, search, options), nil
}

// logConfig is where a container's output goes.
func (e *records) logConfig(r *record) keeper.LogConfig {
	c := keeper.LogConfig{Driver: r.HostConfig.LogConfig.Type, MaxSize: 20 << 20, MaxFiles: 5}
	options := e.o.Defaults.LogOptions
	if c.Driver == "" {
		c.Driver = e.o.Defaults.LogDriver
	}
	if c.Driver == "" {
		c.Driver = "json-file"
	}
	if v := options["max-size"]; v == "-1" {
		c.MaxSize = 0
	} else if n, err := units.RAMInBytes(v); err == nil {
		c.MaxSize = n
	}
	if n, err := strconv.Atoi(options["max-file"]); err == nil && n > 0 {
		c.MaxFiles = n
	}
	c.Compress = options["compress"] == "true" || c.Driver == "local" && options["compress"] == ""
	switch c.Driver {
	case "none":
	case "local":
		c.Path = filepath.Join(e.folder(r.ID), "local-logs", "container.log")
	default:
		c.Path = filepath.Join(e.folder(r.ID), r.ID+"-json.log")
	}
	return c
}
