package api

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

var execRoutes = []route{
	{method: "POST", path: "/containers/{id}/exec", handle: (*call).execCreate},
	{method: "POST", path: "/exec/{id}/start", handle: (*call).execStart},
	{method: "POST", path: "/exec/{id}/resize", handle: (*call).execResize},
	{method: "GET", path: "/exec/{id}/json", handle: (*call).execInspect},
	{method: "POST", path: "/exec/{id}/kill", handle: (*call).execKill}, // Hezi's own
}

// execCreateRequest is Docker's with what Hezi adds to it.
type execCreateRequest struct {
	container.ExecCreateRequest
	KillOnDisconnect bool
}

func (c *call) execCreate() error {
	var r execCreateRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if len(r.Cmd) == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("no exec command specified")
	}
	conf := engine.ExecConfig{
		User: r.User, WorkingDir: r.WorkingDir, Env: r.Env, Cmd: r.Cmd,
		Tty: r.Tty, Privileged: r.Privileged,
		Stdin: r.AttachStdin, Stdout: r.AttachStdout, Stderr: r.AttachStderr,
		DetachKeys: r.DetachKeys, KillOnDisconnect: r.KillOnDisconnect,
	}
	if r.ConsoleSize != nil && c.version >= 42 {
		conf.ConsoleHeight, conf.ConsoleWidth = r.ConsoleSize[0], r.ConsoleSize[1]
	}
	id, err := c.backend.Execs.ExecCreate(c.lasting(), c.arg, conf)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

func (c *call) execStart() error {
	var r container.ExecStartRequest
	if err := c.optionalBody(&r); err != nil {
		return err
	}
	ex, err := c.backend.Execs.ExecInspect(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	o := engine.ExecStartOptions{Detach: r.Detach, Tty: r.Tty}
	if r.ConsoleSize != nil && c.version >= 42 {
		o.ConsoleHeight, o.ConsoleWidth = r.ConsoleSize[0], r.ConsoleSize[1]
	}
	if r.Detach {
		err := c.backend.Execs.ExecStart(c.lasting(), c.arg, o, nil)
		if err == nil {
			c.w.WriteHeader(http.StatusOK)
		}
		return err
	}
	terminal := ex.ProcessConfig != nil && ex.ProcessConfig.Tty
	kind := c.streamType(terminal)
	if err := c.backend.Execs.ExecStart(c.lasting(), c.arg, o, c.hijackStream(kind)); err != nil {
		return c.streamError(terminal, kind, err)
	}
	return nil
}

func (c *call) execInspect() error {
	resp, err := c.backend.Execs.ExecInspect(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

func (c *call) execResize() error {
	h, w, err := c.size()
	if err != nil {
		return err
	}
	if err := c.backend.Execs.ExecResize(c.ctx(), c.arg, h, w); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) execKill() error {
	return c.noContent(c.backend.Execs.ExecKill(c.lasting(), c.arg, c.get("signal")))
}
