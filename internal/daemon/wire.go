package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/moby/moby/api/types/events"

	"hezi/internal/api"
	"hezi/internal/daemon/config"
)

// rooms is everything that is open while hezid serves.
type rooms struct {
	backend  api.Backend
	onReload []func(*config.Config)
	closers  []func() error // in the order of opening
	// dismantle takes the keeper and the network away when no container runs:
	// an engine that was stopped then leaves nothing in the kernel.
	dismantle func() error
}

// reload tells the rooms a new configuration.
func (r *rooms) reload(c *config.Config) {
	for _, f := range r.onReload {
		f(c)
	}
}

// onClose remembers how to end a room that was opened.
func (r *rooms) onClose(f func() error) { r.closers = append(r.closers, f) }

// close ends the rooms, the last opened first.
func (r *rooms) close() error {
	var errs []error
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	return errors.Join(errs...)
}

// eventSource is what /events and /info need of the events room.
type eventSource interface {
	// Follow sends what happened since and what happens until to out, until ctx ends.
	Follow(ctx context.Context, since, until time.Time, f api.Filters, out func(events.Message) error) error
	// Listeners counts those who follow now.
	Listeners() int
}

// Events answers GET /events.
func (s *systemRoom) Events(ctx context.Context, since, until time.Time, f api.Filters, out func(events.Message) error) error {
	return s.events.Follow(ctx, since, until, f, out)
}
