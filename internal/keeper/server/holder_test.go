package server

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// TestKeeperDiesAtOnce: a keeper that is dead and reaped before everything was
// handed back to it is seen to have died, and nothing waits for it.
func TestKeeperDiesAtOnce(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	record, err := json.Marshal(map[string]string{"long": strings.Repeat("x", 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{o: HolderOptions{Root: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}, listener: null, statuses: map[int]uint32{},
		entries: map[string]*entry{"a": {record: record}}, binary: "/bin/false"}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				h.reap()
			}
		}
	}()
	for range 5 {
		done := make(chan error, 1)
		go func() {
			link, pid, err := h.spawn(false)
			if err == nil {
				link.Close()
				h.awaitDeath(pid)
			}
			done <- err
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the holder waits for a keeper that has died")
		}
	}
}
