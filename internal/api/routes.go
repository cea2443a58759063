package api

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// route is one operation of the API.
type route struct {
	method string
	// path with at most one variable: {x} is one segment, {x...} may hold
	// slashes, as the names of images do.
	path   string
	handle func(*call) error
	// since is the first API version that has it; 0: all that we speak.
	since apiVersion
	// early is served before the engine is ready.
	early bool
	// room is what the handler calls; nil: none.
	room func(*Backend) (name string, open bool)
}

// open refuses an operation whose room is not in this build of hezid.
func (r *route) open(b *Backend) error {
	if r.room == nil {
		return nil
	}
	name, ok := r.room(b)
	if ok {
		return nil
	}
	return errdefs.ErrNotImplemented.WithMessage("this build of hezid has no room for " + name + ": install a newer one")
}

func (r *route) supports(v apiVersion) error {
	if v >= r.since {
		return nil
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
		"%s %s requires API version %s, but the client asked for version %s", r.method, r.path, r.since, v))
}

// routes is every operation of Engine API 1.56 and what Hezi adds to it.
func routes() []route {
	var all []route
	for _, group := range []struct {
		routes []route
		room   func(*Backend) (string, bool)
	}{
		{systemRoutes, func(b *Backend) (string, bool) { return "the system", b.System != nil }},
		{containerRoutes, func(b *Backend) (string, bool) { return "containers", b.Containers != nil && b.Views != nil }},
		{streamRoutes, func(b *Backend) (string, bool) { return "containers", b.Streams != nil }},
		{limitRoutes, func(b *Backend) (string, bool) { return "containers", b.Limits != nil }},
		{execRoutes, func(b *Backend) (string, bool) { return "execs", b.Execs != nil }},
		{mountRoutes, func(b *Backend) (string, bool) { return "mounts", b.Mounts != nil }},
		{snapshotRoutes, func(b *Backend) (string, bool) { return "snapshots", b.Snapshots != nil }},
		{fileRoutes, func(b *Backend) (string, bool) { return "containers", b.Files != nil }},
		{imageRoutes, func(b *Backend) (string, bool) { return "images", b.Images != nil }},
		{listRoutes, func(b *Backend) (string, bool) { return "registries", b.Lists != nil }},
		{registryRoutes, func(b *Backend) (string, bool) { return "registries", b.Registries != nil }},
		{transferRoutes, func(b *Backend) (string, bool) { return "images", b.Transfers != nil }},
		{diskRoutes, func(b *Backend) (string, bool) { return "the disk", b.Upkeep != nil && b.Disk != nil }},
		{networkRoutes, func(b *Backend) (string, bool) { return "networks", b.Networks != nil }},
		{volumeRoutes, func(b *Backend) (string, bool) { return "volumes", b.Volumes != nil }},
		{volumeStateRoutes, func(b *Backend) (string, bool) { return "volumes", b.VolumeStates != nil && b.VolumeTrash != nil }},
		{missingRoutes, nil}, {swarmRoutes, nil}, {pluginRoutes, nil},
	} {
		for _, r := range group.routes {
			r.room = group.room
			all = append(all, r)
		}
	}
	return all
}

// compiled is a route's path cut at its variable.
type compiled struct {
	*route
	prefix, suffix string
	variable, long bool
}

// router finds routes: exact paths in a map, those with a variable by a short
// list for each method and first segment.
type router struct {
	exact    map[string]*route
	variable map[string][]compiled
}

func newRouter(all []route) router {
	r := router{exact: map[string]*route{}, variable: map[string][]compiled{}}
	for i := range all {
		rt := &all[i]
		prefix, rest, ok := strings.Cut(rt.path, "{")
		if !ok {
			r.exact[rt.method+" "+rt.path] = rt
			continue
		}
		name, suffix, _ := strings.Cut(rest, "}")
		key := rt.method + " " + firstSegment(rt.path)
		r.variable[key] = append(r.variable[key], compiled{route: rt, prefix: prefix, suffix: suffix, variable: true, long: strings.HasSuffix(name, "...")})
	}
	return r
}

func firstSegment(path string) string {
	s, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return s
}

// find returns the route of a request and its variable's value. A route with
// a suffix wins over one without, so that DELETE /images/a/b and
// GET /images/a/b/json both reach what they mean.
func (r router) find(method, path string) (*route, string) {
	if rt := r.exact[method+" "+path]; rt != nil {
		return rt, ""
	}
	var found *route
	var arg string
	longest := -1
	for _, c := range r.variable[method+" "+firstSegment(path)] {
		value, ok := c.match(path)
		if ok && len(c.suffix) > longest {
			found, arg, longest = c.route, value, len(c.suffix)
		}
	}
	return found, arg
}

func (c compiled) match(path string) (string, bool) {
	v, ok := strings.CutPrefix(path, c.prefix)
	if !ok {
		return "", false
	}
	v, ok = strings.CutSuffix(v, c.suffix)
	if !ok || v == "" || !c.long && strings.Contains(v, "/") {
		return "", false
	}
	return v, true
}
