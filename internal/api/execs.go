package api

import (
	"net/http"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

var execRoutes = []route{
	{method: "POST", path: "/containers/{id}/exec", handle: execCreate},
	{method: "POST", path: "/exec/{id}/start", handle: execStart},
	{method: "POST", path: "/exec/{id}/resize", handle: execResize},
	{method: "GET", path: "/exec/{id}/json", handle: execInspect},
	// Hezi's own:
	{method: "POST", path: "/exec/{id}/kill", handle: execKill},
	{method: "GET", path: "/hezi/execs", handle: execList},
	{method: "POST", path: "/hezi/containers/{id}/exec", handle: execCreate}, // what Docker's engine would ignore, it refuses here
}

// execCreateRequest is Docker's with what Hezi adds to it.
type execCreateRequest struct {
	container.ExecCreateRequest
	Cmd              words
	KillOnDisconnect bool
}

func execCreate(c *call) error {
	var r execCreateRequest
	err := c.body(&r)
	if err != nil {
		return err
	}
	conf := engine.ExecConfig{
		User: r.User, WorkingDir: r.WorkingDir, Env: r.Env, Cmd: r.Cmd, Tty: r.Tty, Privileged: r.Privileged, Stdin: r.AttachStdin,
		Stdout: r.AttachStdout, Stderr: r.AttachStderr, DetachKeys: r.DetachKeys, KillOnDisconnect: r.KillOnDisconnect,
		AtOnce: c.r.Header.Get(runHeader) != "" && !r.Tty,
	}
	if conf.ConsoleHeight, conf.ConsoleWidth, err = c.consoleSize(r.ConsoleSize); err != nil {
		return err
	}
	id, err := c.backend.Execs.ExecCreate(c.lasting(), c.arg, conf)
	if err != nil {
		return err
	}
	if conf.AtOnce {
		return c.execRun(id)
	}
	return c.writeJSON(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// runHeader in a request for a new exec starts it on the same connection, which
// carries its streams from then on and ends with a frame of its exit code: one
// request instead of three. An engine that does not know it answers 201, and
// the client goes on as usual. Hezi's own.
const runHeader = "Hezi-Run"

func (c *call) execRun(id string) error {
	c.w.Header().Set("Hezi-Exec-Id", id)
	kind := c.streamType(false)
	err := c.backend.Execs.ExecStart(c.lasting(), id, engine.ExecStartOptions{ExitFrame: true}, c.hijackStream(kind))
	if err == nil {
		return nil
	}
	code := 126
	if ex, lost := c.backend.Execs.ExecInspect(c.ctx(), id); lost == nil && ex.ExitCode != nil {
		code = *ex.ExitCode
	}
	return c.streamError(false, kind, err, exitFrame(code))
}

func execStart(c *call) error {
	var r container.ExecStartRequest
	if err := c.optionalBody(&r); err != nil {
		return err
	}
	if _, err := c.backend.Execs.ExecInspect(c.ctx(), c.arg); err != nil {
		return err
	}
	o := engine.ExecStartOptions{Detach: r.Detach, Tty: r.Tty}
	var err error
	if o.ConsoleHeight, o.ConsoleWidth, err = c.consoleSize(r.ConsoleSize); err != nil {
		return err
	}
	if r.Detach {
		return c.ok(c.backend.Execs.ExecStart(c.lasting(), c.arg, o, nil))
	}
	kind := c.streamType(r.Tty)
	if err := c.backend.Execs.ExecStart(c.lasting(), c.arg, o, c.hijackStream(kind)); err != nil {
		return c.streamError(r.Tty, kind, err, nil)
	}
	return nil
}

func execInspect(c *call) error {
	resp, err := c.backend.Execs.ExecInspect(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

func execResize(c *call) error {
	h, w, err := c.size()
	if err != nil {
		return err
	}
	return c.ok(c.backend.Execs.ExecResize(c.ctx(), c.arg, h, w))
}

func execKill(c *call) error {
	return c.noContent(c.backend.Execs.ExecKill(c.lasting(), c.arg, c.get("signal")))
}

// execList lists the execs of ?container=, or of all containers.
func execList(c *call) error {
	list, err := c.backend.Execs.ExecList(c.ctx(), c.get("container"))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, list)
}
