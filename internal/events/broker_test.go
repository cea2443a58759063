package events

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
)

func TestReplayAndFilters(t *testing.T) {
	b := New()
	for i := range ringSize + 10 {
		b.Publish(events.Message{Type: events.ContainerEventType, Action: "start", Actor: events.Actor{ID: strconv.Itoa(i), Attributes: map[string]string{"name": "n", "a": "b"}}})
	}
	b.Publish(events.Message{Type: events.VolumeEventType, Action: "create"})
	n := 0
	start := time.Unix(1, 0)
	err := b.Follow(context.Background(), start, time.Now(), map[string]map[string]bool{"type": {"container": true}, "label": {"a=b": true}, "container": {"n": true}},
		func(events.Message) error { n++; return nil })
	if err != nil || n != ringSize-1 {
		t.Fatalf("%d events, %v", n, err)
	}
	stop := errors.New("stop")
	if err := b.Follow(context.Background(), start, time.Time{}, nil, func(events.Message) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if b.Listeners() != 0 {
		t.Fatal("a listener is left")
	}
}
