package image

import (
	"context"
	"sync"
)

// watch receives how far one layer is.
type watch func(step)

// step is a moment of a layer's way: what is being done, and how much of how
// much in bytes. Total 0 means that there is nothing to count. The zero step
// is the end of a layer that had to be neither downloaded nor unpacked here.
type step struct {
	status         string
	current, total int64
}

// flights lets work that several pulls want be done by one of them at a time.
// If that one fails or is cancelled, another takes over.
type flights struct {
	mu  sync.Mutex // guards all below
	all map[string]*flight
}

// flight is work under way.
type flight struct {
	done chan struct{}

	mu       sync.Mutex // guards all below
	last     step
	watchers map[int]watch
	next     int
}

// do runs work unless another has it under way; then it waits, shows that
// one's progress and, when it ended, asks ready whether that was enough.
// ready is asked first, too.
func (f *flights) do(ctx context.Context, key string, w watch, ready func(context.Context) (bool, error), work func(context.Context, watch) error) error {
	for {
		if ok, err := ready(ctx); ok || err != nil {
			return err
		}
		now, mine := f.join(key)
		stop := now.watch(w)
		if mine {
			err := work(ctx, now.show)
			stop()
			f.end(key, now)
			return err
		}
		select {
		case <-now.done:
			stop()
		case <-ctx.Done():
			stop()
			return context.Cause(ctx)
		}
	}
}

// under says whether work is under way.
func (f *flights) under(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[key] != nil
}

func (f *flights) join(key string) (_ *flight, mine bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.all[key]; now != nil {
		return now, false
	}
	if f.all == nil {
		f.all = make(map[string]*flight)
	}
	now := &flight{done: make(chan struct{}), watchers: make(map[int]watch)}
	f.all[key] = now
	return now, true
}

func (f *flights) end(key string, now *flight) {
	f.mu.Lock()
	delete(f.all, key)
	f.mu.Unlock()
	close(now.done)
}

// watch adds a watcher, who sees the present step at once.
func (f *flight) watch(w watch) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.next
	f.next++
	f.watchers[n] = w
	if f.last.status != "" {
		w(f.last)
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, n)
	}
}

// show tells all watchers.
func (f *flight) show(s step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = s
	for _, w := range f.watchers {
		w(s)
	}
}
