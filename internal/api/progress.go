package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/jsonstream"
)

// progress writes a stream of JSON lines. Headers go out with the first line,
// so that what fails before it fails with a status.
type progress struct {
	c     *call
	mu    sync.Mutex // guards the writer
	begun bool
}

// progress begins one. The request's body may still be read while lines are
// written: net/http would otherwise swallow it at the first line.
func (c *call) progress() *progress {
	if err := http.NewResponseController(c.w).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		c.log.Warn("full duplex", "error", err)
	}
	return &progress{c: c}
}

// line is a message with the field that clients before errorDetail read.
type line struct {
	jsonstream.Message
	ErrorText string `json:"error,omitempty"`
}

// send writes one message. A client that is gone ends the request's context;
// nothing is to be done here.
func (p *progress) send(m jsonstream.Message) {
	l := line{Message: m}
	if m.Error != nil {
		l.ErrorText = m.Error.Message
	}
	body, err := json.Marshal(l)
	if err != nil {
		p.c.log.Error("a progress message could not be written as JSON", "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beginLocked()
	_, _ = p.c.w.Write(append(body, '\r', '\n'))
	_ = http.NewResponseController(p.c.w).Flush()
}

func (p *progress) beginLocked() {
	if p.begun {
		return
	}
	p.begun = true
	p.c.w.Header().Set("Content-Type", "application/json")
	p.c.w.WriteHeader(http.StatusOK)
}

// end finishes the stream: an error goes into it when it has begun, and is
// the answer's status otherwise.
func (p *progress) end(err error) error {
	p.mu.Lock()
	begun := p.begun
	if err == nil {
		p.beginLocked()
	}
	p.mu.Unlock()
	if err != nil && begun {
		p.send(jsonstream.Message{Error: &jsonstream.Error{Code: statusOf(err), Message: err.Error()}})
		return nil
	}
	return err
}

// withTag joins a repository and the tag or digest that came beside it.
func withTag(name, tag string) string {
	switch {
	case tag == "" || name == "":
		return name
	case strings.Contains(tag, ":"): // a digest
		return name + "@" + tag
	}
	return name + ":" + tag
}

// hasTag says whether a reference names one image: without a tag a pull means
// every tag, as Docker has it (clients add "latest" themselves).
func hasTag(ref string) bool {
	base := ref[strings.LastIndex(ref, "/")+1:]
	return strings.ContainsAny(base, ":@")
}
