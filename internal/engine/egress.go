package engine

import (
	"context"
	"maps"
	"strconv"

	"github.com/moby/moby/api/types/events"

	"hezi/internal/engine/attach"
	hostnet "hezi/internal/network"
	"hezi/internal/network/egress"
)

// actionEgress is an event of Hezi's own: a policy of egress denied a container something.
const actionEgress events.Action = "egress-denied"

// EgressDenied tells what a container was denied.
func (e Attachments) EgressDenied(id string, d hostnet.Denied) {
	c, err := e.entry(id)
	if err != nil {
		return // it was removed meanwhile
	}
	pairs := []string{"destination", d.Destination, "protocol", d.Protocol, "count", strconv.FormatUint(d.Count, 10)}
	if d.Port != 0 {
		pairs = append(pairs, "port", strconv.Itoa(int(d.Port)))
	}
	e.publish(c.latest.Load(), actionEgress, pairs...)
}

// SetEgress changes what a container may send to, at once while it runs, and for good; ""
// is everything. Errors: NotFound, InvalidArgument.
func (e Attachments) SetEgress(ctx context.Context, ref, policy string) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	r, config := c.latest.Load(), *c.latest.Load().Config
	before := config.Labels[egress.Label]
	config.Labels = maps.Clone(config.Labels)
	delete(config.Labels, egress.Label)
	if policy != "" {
		if config.Labels == nil {
			config.Labels = map[string]string{}
		}
		config.Labels[egress.Label] = policy
	}
	if err := attach.Egress(config.Labels, r.HostConfig.NetworkMode); err != nil {
		return err
	}
	runs := r.running() && r.Net != nil
	if runs {
		if err := e.o.Networks.SetEgress(r.ID, policy); err != nil {
			return err
		}
	}
	after, err := e.change(c, func(r *record) { r.Config = &config })
	if err != nil {
		if runs {
			if back := e.o.Networks.SetEgress(r.ID, before); back != nil {
				e.o.Log.Error("take a change of a policy of egress back that could not be stored", "container", r.ID, "error", back)
			}
		}
		return err
	}
	e.publish(after, events.ActionUpdate)
	return nil
}
