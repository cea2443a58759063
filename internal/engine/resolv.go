package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"hezi/internal/keeper"
	"hezi/internal/network"
	"hezi/internal/network/dns/sockets"
	"hezi/internal/network/dns/upstream"
	"hezi/internal/network/hostfiles"
)

// resolv is what a container's resolv.conf is made of.
func resolv(d *Defaults, r *record) (hostfiles.Resolv, error) {
	h := r.HostConfig
	v := hostfiles.Resolv{Path: cmp.Or(d.ResolvConf, upstream.HostFile), DNS: h.DNS, Search: h.DNSSearch, Options: h.DNSOptions}
	if len(v.DNS) == 0 {
		v.DNS = d.DNS
	}
	if len(v.Search) == 0 {
		v.Search = d.DNSSearch
	}
	if len(v.Options) == 0 {
		v.Options = d.DNSOptions
	}
	var err error
	if v.Host, err = os.ReadFile(v.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return v, fmt.Errorf("the host's name servers: %w", err)
	}
	return v, nil
}

// resolving is what the name service does for a container with names of the outside.
func resolving(d *Defaults, r *record) (network.Resolving, error) {
	v, err := resolv(d, r)
	how := network.Resolving{Dotted: v.Dotted()}
	if len(v.DNS) > 0 {
		how.Own = v.DNS
	}
	return how, err
}

// resolvConf is the container's /etc/resolv.conf: it names the name service if the
// container has one.
func (e launcher) resolvConf(r *record, s *network.Sandbox) ([]byte, error) {
	v, err := resolv(&e.o.Defaults, r)
	if err != nil {
		return nil, err
	}
	inHost := r.HostConfig.NetworkMode.IsHost()
	switch {
	case s != nil && s.Asks:
		return v.Text(netip.AddrFrom4(sockets.Address)), nil
	case inHost && len(v.DNS)+len(v.Search)+len(v.Options) == 0:
		return v.Host, nil
	}
	host := v.Host
	if !inHost && hostfiles.UsesStub(host) {
		if real, err := os.ReadFile(upstream.ResolvedFile); err == nil {
			host = real
		}
	}
	return hostfiles.ResolvConf(host, v.DNS, v.Search, v.Options, inHost), nil
}

// keepNames has the keeper keep the sockets by which a container asks for names, which
// it does not have: it was started by one that was lost with its holder.
func keepNames(ctx context.Context, o *Options, id string) {
	fds := o.Networks.NameSockets(id)
	defer keeper.CloseFDs(fds)
	if len(fds) == 0 {
		return
	}
	if err := o.Keeper.KeepNames(ctx, id, fds); err != nil {
		o.Log.Warn("the sockets by which a container asks for names are not kept: while hezid is away it gets no answers", "container", id, "error", err)
	}
}

// resolves has a running container that was in no network so far ask the name service that
// it has now. What somebody has written into its resolv.conf since it started stays.
func (e Attachments) resolves(ctx context.Context, r *record, box *network.Sandbox) {
	if !r.running() || r.Net.Asks || !box.Asks {
		return
	}
	keepNames(ctx, &e.o, r.ID)
	path := e.etcFile(r, "resolv.conf")
	text, err := e.launcher.resolvConf(r, box)
	var info os.FileInfo
	if err == nil {
		info, err = os.Stat(path)
	}
	switch {
	case err != nil:
	case info.ModTime().After(r.Started):
		err = errors.New("it was changed since the container started")
	default:
		err = os.WriteFile(path, text, 0o644) // in place, since it is mounted
	}
	if err != nil {
		e.o.Log.Warn("a container's /etc/resolv.conf does not name its name service (nameserver 127.0.0.11): write it there, or restart the container", "container", r.ID, "error", err)
	}
}
