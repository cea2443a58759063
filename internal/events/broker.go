// Package events keeps the latest events in a bounded ring and sends them to
// those who follow. Publishing never waits: a follower that falls behind the
// ring is told how many events it lost.
package events

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

const ringSize = 4096

// Broker is the engine's source of events.
type Broker struct {
	mu        sync.Mutex
	ring      [ringSize]events.Message
	next      uint64        // number of the next event
	wake      chan struct{} // closed by the next event
	listeners int
}

// New makes an empty broker.
func New() *Broker { return &Broker{wake: make(chan struct{})} }

// Publish adds an event; a message without a time gets the present one.
func (b *Broker) Publish(m events.Message) {
	if m.TimeNano == 0 {
		now := time.Now()
		m.Time, m.TimeNano = now.Unix(), now.UnixNano()
	}
	if m.Scope == "" {
		m.Scope = "local"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ring[b.next%ringSize] = m
	b.next++
	close(b.wake)
	b.wake = make(chan struct{})
}

// Listeners counts those who follow now.
func (b *Broker) Listeners() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.listeners
}

// Follow sends what happened since and what happens until to out, until ctx or
// that time ends. A zero since is now, unless until is given: then everything
// that is remembered; a zero until has no end.
func (b *Broker) Follow(ctx context.Context, from, to time.Time, f map[string]map[string]bool, out func(events.Message) error) error {
	if !to.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, to)
		defer cancel()
	}
	b.mu.Lock()
	at := b.next
	if !from.IsZero() || !to.IsZero() {
		at = b.oldest()
	}
	b.listeners++
	b.mu.Unlock()
	defer func() { b.mu.Lock(); b.listeners--; b.mu.Unlock() }()
	for {
		batch, next, lost, wake := b.read(at)
		at = next
		if lost > 0 {
			if err := out(lostMessage(lost)); err != nil {
				return err
			}
		}
		for _, m := range batch {
			if !from.IsZero() && m.TimeNano < from.UnixNano() || !to.IsZero() && m.TimeNano > to.UnixNano() || !matches(m, f) {
				continue
			}
			if err := out(m); err != nil {
				return err
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *Broker) oldest() uint64 {
	if b.next > ringSize {
		return b.next - ringSize
	}
	return 0
}

func (b *Broker) read(at uint64) (batch []events.Message, next, lost uint64, wake chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.oldest(); at < o {
		lost, at = o-at, o
	}
	for ; at < b.next && len(batch) < 256; at++ {
		batch = append(batch, b.ring[at%ringSize])
	}
	return batch, at, lost, b.wake
}

func lostMessage(n uint64) events.Message {
	now := time.Now()
	return events.Message{Type: events.DaemonEventType, Action: "lost", Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano(),
		Actor: events.Actor{Attributes: map[string]string{"count": fmt.Sprint(n)}}}
}

// matches holds m against Docker's filters: values of one key are
// alternatives, except that every label must match.
func matches(m events.Message, f map[string]map[string]bool) bool {
	for key, values := range f {
		if len(values) > 0 && !matchesKey(m, key, values) {
			return false
		}
	}
	return true
}

func matchesKey(m events.Message, key string, values map[string]bool) bool {
	attr := m.Actor.Attributes
	if key == "label" {
		for v := range values {
			k, want, exact := strings.Cut(v, "=")
			if got, ok := attr[k]; !ok || exact && got != want {
				return false
			}
		}
		return true
	}
	for v := range values {
		switch key {
		case "type":
			if string(m.Type) == v {
				return true
			}
		case "event":
			if a := string(m.Action); a == v || strings.HasPrefix(a, v+":") {
				return true
			}
		case "scope":
			if m.Scope == v {
				return true
			}
		case "image":
			name := attr["image"]
			if m.Type == events.ImageEventType {
				name = attr["name"]
			}
			if name == v || strings.HasPrefix(name, v+":") || m.Type == events.ImageEventType && m.Actor.ID == v {
				return true
			}
		default: // container, volume, network, ...: by id, id's prefix or name
			if string(m.Type) == key && (strings.HasPrefix(m.Actor.ID, v) || attr["name"] == strings.TrimPrefix(v, "/")) || attr[key] == v {
				return true
			}
		}
	}
	return false
}
