package api

import (
	"net/http"
	"regexp"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

var streamRoutes = []route{
	{method: "POST", path: "/containers/{id}/attach", handle: containerAttach},
	{method: "GET", path: "/containers/{id}/logs", handle: containerLogs},
	{method: "POST", path: "/containers/{id}/wait", handle: containerWait},
}

func containerAttach(c *call) error {
	o := engine.AttachOptions{
		Stdin: c.flag("stdin"), Stdout: c.flag("stdout"), Stderr: c.flag("stderr"),
		Stream: c.flag("stream"), Logs: c.flag("logs"),
		DetachKeys: c.get("detachKeys"),
	}
	terminal, err := c.backend.Streams.Terminal(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	return c.backend.Streams.Attach(c.lasting(), c.arg, o, c.hijackStream(c.streamType(terminal)))
}

func containerLogs(c *call) error {
	o, err := c.logsOptions()
	if err != nil {
		return err
	}
	return c.backend.Streams.Logs(c.lasting(), c.arg, o, func(raw bool) engine.Hijack {
		return c.hijackBody(c.streamType(raw))
	})
}

func (c *call) logsOptions() (o engine.LogsOptions, err error) {
	o = engine.LogsOptions{
		Stdout: c.flag("stdout"), Stderr: c.flag("stderr"), Follow: c.flag("follow"),
		Timestamps: c.flag("timestamps"), Details: c.flag("details"), Tail: -1,
	}
	if !o.Stdout && !o.Stderr {
		return o, errdefs.ErrInvalidArgument.WithMessage("Bad parameters: you must choose at least one stream")
	}
	// Anything but a number is all, as Docker reads it.
	if n, err := c.number("tail"); err == nil && n != nil && *n >= 0 {
		o.Tail = *n
	}
	if o.Since, err = logTime(c.get("since")); err != nil {
		return o, invalid("invalid value for \"since\"", err)
	}
	if o.Until, err = logTime(c.get("until")); err != nil {
		return o, invalid("invalid value for \"until\"", err)
	}
	o.Grep = c.get("grep")
	if _, err := regexp.Compile(o.Grep); err != nil {
		return o, invalid("invalid value for \"grep\": an expression of RE2 is needed", err)
	}
	return o, nil
}

// logTime is timestamp where Docker takes "0" for none.
func logTime(s string) (time.Time, error) {
	if s == "0" {
		return time.Time{}, nil
	}
	return timestamp(s)
}

// containerWait answers with headers at once: clients create, wait and then
// start, and would wait for ever for an answer that comes only at the end.
// Before 1.30 the answer came whole.
func containerWait(c *call) error {
	cond, err := c.waitCondition()
	if err != nil {
		return err
	}
	if c.local() && c.version >= 30 {
		_, err := c.backend.Streams.Wait(c.lasting(), c.arg, cond, c.hijackBody(types.MediaTypeJSON))
		return err
	}
	return waitRelayed(c, cond)
}

// waitRelayed answers a client whose connection cannot be handed over.
func waitRelayed(c *call, cond container.WaitCondition) error {
	if _, err := c.backend.Streams.Terminal(c.ctx(), c.arg); err != nil {
		return err // no such container, while it can still be said with a status
	}
	if c.version >= 30 {
		c.w.Header().Set("Content-Type", types.MediaTypeJSON)
		c.w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(c.w).Flush() // a client that is gone ends the request's context
	}
	ctx, cancel := c.streaming()
	defer cancel()
	resp, err := c.backend.Streams.Wait(ctx, c.arg, cond, nil)
	if err != nil && c.version < 30 {
		return err
	}
	if err != nil {
		resp = container.WaitResponse{StatusCode: -1, Error: &container.WaitExitError{Message: err.Error()}}
	}
	return c.writeJSONBody(resp)
}
