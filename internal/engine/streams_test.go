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
