package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"
)

var systemRoutes = []route{
	{method: "GET", path: "/_ping", handle: ping, early: true},
	{method: "HEAD", path: "/_ping", handle: ping, early: true},
	{method: "GET", path: "/version", handle: systemVersion},
	{method: "GET", path: "/info", handle: systemInfo},
	{method: "GET", path: "/events", handle: systemEvents},
	{method: "GET", path: "/debug/pprof/{name...}", handle: debugProfile, early: true},
	{method: "GET", path: "/debug/pprof/", handle: debugProfile, early: true},
}

// ping answers before the engine is ready: it says which API is spoken here.
// Builder-Version 1 tells clients to send builds to POST /build, whose refusal
// says what to do instead.
func ping(c *call) error {
	h := c.w.Header()
	h.Set("Builder-Version", "1")
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	_, _ = io.WriteString(c.w, "OK") // the client may be gone
	return nil
}

func systemVersion(c *call) error {
	v, err := c.backend.System.Version(c.ctx())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, v)
}

func systemInfo(c *call) error {
	info, err := c.backend.System.Info(c.ctx())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, infoFor(c.version, info))
}

// systemEvents sends events until the client goes away or `until` is past.
func systemEvents(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	since, until, err := c.eventTimes()
	if err != nil {
		return err
	}
	if err := checkEventFilters(f); err != nil {
		return err
	}
	prefix := c.beginEvents()
	ctx, cancel := c.streaming()
	defer cancel()
	err = c.backend.System.Events(ctx, since, until, f, func(m events.Message) error {
		return c.sendEvent(prefix, m)
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// eventTimes are the bounds of GET /events.
func (c *call) eventTimes() (since, until time.Time, err error) {
	if since, err = timestamp(c.get("since")); err != nil {
		return since, until, invalid("since", err)
	}
	if until, err = timestamp(c.get("until")); err != nil {
		return since, until, invalid("until", err)
	}
	if !until.IsZero() && until.Before(since) {
		err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("`since` time (%s) cannot be after `until` time (%s)", c.get("since"), c.get("until")))
	}
	return since, until, err
}

// checkEventFilters refuses a key that nothing matches: the client would wait
// for ever.
func checkEventFilters(f Filters) error {
	for key := range f {
		switch key {
		case "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume":
		default:
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", key))
		}
	}
	return nil
}

// beginEvents sends the headers, for which following clients wait.
func (c *call) beginEvents() (prefix string) {
	kind, prefix := c.eventsType()
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(http.StatusOK)
	c.flush()
	return prefix
}

func (c *call) sendEvent(prefix string, m events.Message) error {
	body, err := json.Marshal(eventFor(c.version, m))
	if err != nil {
		return err
	}
	_, err = c.w.Write(append(append([]byte(prefix), body...), '\n'))
	c.flush()
	return err
}

func (c *call) flush() {
	_ = http.NewResponseController(c.w).Flush() // a client that is gone ends the request's context
}

// eventsType negotiates the stream's type, and what stands before each record.
func (c *call) eventsType() (contentType, prefix string) {
	if c.version < 52 {
		return types.MediaTypeJSON, ""
	}
	for part := range strings.SplitSeq(c.r.Header.Get("Accept"), ",") {
		mt, _, err := mime.ParseMediaType(part)
		switch {
		case err != nil:
		case mt == types.MediaTypeJSONSequence:
			return mt, "\x1e"
		case mt == types.MediaTypeNDJSON, mt == types.MediaTypeJSONLines && c.version >= 53:
			return mt, ""
		}
	}
	return types.MediaTypeJSON, ""
}

// debugProfile serves Go's profiles, in debug mode only.
func debugProfile(c *call) error {
	if !c.debug() {
		return errPageNotFound
	}
	switch c.arg {
	case "cmdline":
		pprof.Cmdline(c.w, c.r)
	case "profile":
		pprof.Profile(c.w, c.r)
	case "symbol":
		pprof.Symbol(c.w, c.r)
	case "trace":
		pprof.Trace(c.w, c.r)
	case "":
		pprof.Index(c.w, c.r)
	default:
		pprof.Handler(c.arg).ServeHTTP(c.w, c.r)
	}
	return nil
}
