package engine

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"hezi/internal/disk"
)

// condition decides whether a container passes.
type condition func(*record) bool

// filters as the API sends them: key to set of values.
type filters = map[string]map[string]bool

func badFilter(key string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", key))
}

func badValue(key, value string, why any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s=%s': %v", key, value, why))
}

// listConditions are the filters of ps; a container must meet all. Several
// values of one filter are alternatives, but those of label, annotation,
// before and since, which must all hold.
func (q query) listConditions(ctx context.Context, f filters) ([]condition, error) {
	var list []condition
	for key, values := range f {
		if len(values) == 0 {
			continue
		}
		var c condition
		var err error
		switch key {
		case "id":
			c = anyOf(values, func(r *record, v string) bool { return strings.HasPrefix(r.ID, v) })
		case "name":
			c, err = nameCondition(values)
		case "label":
			c = func(r *record) bool { return hasPairs(values, r.Config.Labels) }
		case "annotation":
			c = func(r *record) bool { return hasPairs(values, r.HostConfig.Annotations) }
		case "status":
			c, err = statusCondition(values)
		case "exited":
			c, err = exitedCondition(values)
		case "health":
			c, err = healthCondition(values)
		case "is-task":
			c, err = taskCondition(values)
		case "isolation": // of Windows: everything passes, as in Docker on Linux
			continue
		case "ancestor":
			c, err = q.ancestorCondition(ctx, values)
		case "before", "since":
			c, err = q.orderCondition(key, values)
		case "volume":
			c = anyOf(values, usesVolume)
		case "network":
			c = anyOf(values, q.inNetwork)
		case "publish", "expose":
			continue
		default:
			return nil, badFilter(key)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	ports, err := portCondition(f["publish"], f["expose"])
	if err != nil {
		return nil, err
	}
	return append(list, ports), nil
}

func anyOf(values map[string]bool, match func(*record, string) bool) condition {
	return func(r *record) bool {
		for v := range values {
			if match(r, v) {
				return true
			}
		}
		return false
	}
}

// hasPairs says whether all of "key" and "key=value" are there.
func hasPairs(wanted map[string]bool, pairs map[string]string) bool {
	for w := range wanted {
		k, v, exact := strings.Cut(w, "=")
		if got, ok := pairs[k]; !ok || exact && got != v {
			return false
		}
	}
	return true
}

func nameCondition(values map[string]bool) (condition, error) {
	var patterns []*regexp.Regexp
	for v := range values {
		p, err := regexp.Compile(v)
		if err != nil {
			return nil, badValue("name", v, err)
		}
		patterns = append(patterns, p)
	}
	return func(r *record) bool {
		return values["/"+r.Name] || slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool {
			return p.MatchString(r.Name) || p.MatchString("/"+r.Name)
		})
	}, nil
}

func statusCondition(values map[string]bool) (condition, error) {
	for v := range values {
		if err := container.ValidateContainerState(State(v)); err != nil {
			return nil, badValue("status", v, err)
		}
	}
	return func(r *record) bool { return values[string(r.State)] }, nil
}

func exitedCondition(values map[string]bool) (condition, error) {
	codes := map[int]bool{}
	for v := range values {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, badValue("exited", v, "an exit code is a number from 0 to 255")
		}
		codes[n] = true
	}
	return func(r *record) bool { return codes[r.Exit] && !r.alive() && !r.Started.IsZero() }, nil
}

func healthCondition(values map[string]bool) (condition, error) {
	for v := range values {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return nil, badValue("health", v, err)
		}
	}
	return func(r *record) bool { return values[string(r.healthStatus())] }, nil
}

// taskCondition: no container is a task of a swarm.
func taskCondition(values map[string]bool) (condition, error) {
	none := false
	for v := range values {
		switch strings.ToLower(v) {
		case "0", "false":
			none = true
		case "1", "true":
		default:
			return nil, badValue("is-task", v, "the value is true or false")
		}
	}
	return func(*record) bool { return none }, nil
}

// ancestorCondition is for containers of an image and of images built upon it.
func (q query) ancestorCondition(ctx context.Context, values map[string]bool) (condition, error) {
	ids := map[string]bool{}
	var tops []digest.Digest // the last chain of layers of each ancestor
	var depths []int
	for v := range values {
		img, err := q.e.o.Images.Resolve(ctx, v, nil)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue // no container can be of it, but by a part of an id: below
		}
		if err != nil {
			return nil, err
		}
		ids[img.ID.String()] = true
		if n := len(img.Layers); n > 0 {
			tops, depths = append(tops, img.Layers[n-1]), append(depths, n)
		}
	}
	return func(r *record) bool {
		if ids[r.ImageID] {
			return true
		}
		for i, n := range depths {
			if len(r.Layers) > n && r.Layers[n-1] == tops[i] {
				return true
			}
		}
		return slices.ContainsFunc(mapKeys(values), func(v string) bool { return isPartOf(v, r.ImageID) })
	}, nil
}

// isPartOf says whether v is the beginning of an image's id, with or without
// its algorithm, long enough to be meant.
func isPartOf(v, id string) bool {
	_, hex, _ := strings.Cut(id, ":")
	return len(v) >= 4 && strings.HasPrefix(hex, strings.TrimPrefix(v, "sha256:"))
}

func mapKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// orderCondition is for containers made before, or since, all of those named.
func (q query) orderCondition(key string, values map[string]bool) (condition, error) {
	var marks []*record
	for v := range values {
		c, err := q.e.entry(v)
		if err != nil {
			return nil, err
		}
		marks = append(marks, c.latest.Load())
	}
	return func(r *record) bool {
		for _, m := range marks {
			order := newestFirst(r, m)
			if key == "before" && order <= 0 || key == "since" && order >= 0 {
				return false
			}
		}
		return true
	}, nil
}

// newestFirst orders records by the time of their creation.
func newestFirst(a, b *record) int {
	if n := b.Created.Compare(a.Created); n != 0 {
		return n
	}
	return strings.Compare(a.ID, b.ID)
}

func usesVolume(r *record, v string) bool {
	for _, p := range r.Points {
		if r.shownMount(p) && (p.Source == v || p.Target == v) {
			return true
		}
	}
	return false
}

func (q query) inNetwork(r *record, v string) bool {
	for name, s := range q.endpoints(r) {
		if v == name || v != "" && strings.HasPrefix(s.NetworkID, v) {
			return true
		}
	}
	return false
}

// portCondition is for containers that publish or expose one of the ports.
func portCondition(publish, expose map[string]bool) (condition, error) {
	var ranges [2][]network.PortRange
	for i, f := range []struct {
		key    string
		values map[string]bool
	}{{"publish", publish}, {"expose", expose}} {
		for v := range f.values {
			if strings.Contains(v, ":") {
				return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("filter for '%s' should not contain ':': %s", f.key, v))
			}
			p, err := network.ParsePortRange(v)
			if err != nil {
				return nil, badValue(f.key, v, err)
			}
			ranges[i] = append(ranges[i], p)
		}
	}
	if len(publish)+len(expose) == 0 {
		return func(*record) bool { return true }, nil
	}
	within := func(list []network.PortRange, port uint16, proto string) bool {
		return slices.ContainsFunc(list, func(p network.PortRange) bool {
			return port >= p.Start() && port <= p.End() && string(p.Proto()) == proto
		})
	}
	return func(r *record) bool {
		return slices.ContainsFunc(r.ports(), func(p container.PortSummary) bool {
			return p.PublicPort != 0 && within(ranges[0], p.PublicPort, p.Type) || within(ranges[1], p.PrivatePort, p.Type)
		})
	}, nil
}

// pruneConditions are the filters of prune.
func pruneConditions(f filters, now time.Time) ([]condition, error) {
	var list []condition
	for key, values := range f {
		if len(values) == 0 {
			continue
		}
		switch key {
		case "label":
			list = append(list, func(r *record) bool { return hasPairs(values, r.Config.Labels) })
		case "label!":
			list = append(list, func(r *record) bool { return !hasPairs(values, r.Config.Labels) })
		case "until":
			if len(values) > 1 {
				return nil, errdefs.ErrInvalidArgument.WithMessage("more than one until filter specified")
			}
			until, err := disk.Moment(mapKeys(values)[0], now)
			if err != nil {
				return nil, err
			}
			list = append(list, func(r *record) bool { return !r.Created.After(until) })
		default:
			return nil, badFilter(key)
		}
	}
	return list, nil
}
