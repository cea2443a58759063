package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
)

// A stream that cannot be handed over ends with the reason, in the form that its
// client reads.
func TestHandOverSaysWhyItFails(t *testing.T) {
	e := &records{o: Options{Log: slog.New(slog.DiscardHandler)}}
	got := func(say wording) []byte {
		mine, theirs := net.Pipe()
		text := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(mine)
			text <- b
		}()
		err := e.handOver(func() (net.Conn, []byte, error) { return theirs, nil, nil }, say, func(net.Conn, []byte) error { return errors.New("no keeper") })
		if err != nil {
			t.Fatal(err)
		}
		return <-text
	}
	if b := got(outputWording(true)); string(b) != "no keeper\r\n" {
		t.Errorf("to a terminal: %q", b)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, bytes.NewReader(got(outputWording(false)))); err != nil || out.Len() > 0 || errs.String() != "no keeper\r\n" {
		t.Errorf("framed: %q, %q, %v", &out, &errs, err)
	}
	var w container.WaitResponse
	if err := json.Unmarshal(got(waitWording), &w); err != nil || w.Error == nil || w.Error.Message != "no keeper" {
		t.Errorf("wait: %+v, %v", w, err)
	}
}

// TestNoStartBeforeAttach: between the answer to an attach and the keeper's knowledge of
// it the container cannot be started, by a client that asks for the start at once.
func TestNoStartBeforeAttach(t *testing.T) {
	e := kept(t, &record{Name: "web", State: container.StateCreated})
	c, err := e.entry("web")
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	hijack := func() (net.Conn, []byte, error) {
		asked = true
		select {
		case c.work <- struct{}{}:
			<-c.work
			t.Error("a start would come before")
		default:
		}
		return nil, nil, errors.New("the client is gone")
	}
	if err := e.Attach(t.Context(), "web", AttachOptions{Stream: true, Stdout: true}, hijack); err == nil || !asked {
		t.Errorf("asked %v: %v", asked, err)
	}
	if _, unlock, err := e.lock(t.Context(), "web"); err != nil {
		t.Error(err)
	} else {
		unlock()
	}
}
