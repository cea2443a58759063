package api

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

var containerRoutes = []route{
	{method: "GET", path: "/containers/json", handle: containerList},
	{method: "POST", path: "/containers/create", handle: timed(containerCreate)},
	{method: "POST", path: "/containers/prune", handle: containerPrune, since: 25},
	{method: "GET", path: "/containers/{id}/json", handle: containerInspect},
	{method: "GET", path: "/containers/{id}/top", handle: containerTop},
	{method: "POST", path: "/containers/{id}/start", handle: timed(containerStart)},
	{method: "POST", path: "/containers/{id}/stop", handle: containerStop},
	{method: "POST", path: "/containers/{id}/restart", handle: containerRestart},
	{method: "POST", path: "/containers/{id}/kill", handle: containerKill},
	{method: "POST", path: "/containers/{id}/pause", handle: containerPause},
	{method: "POST", path: "/containers/{id}/unpause", handle: containerUnpause},
	{method: "POST", path: "/containers/{id}/rename", handle: containerRename},
	{method: "POST", path: "/containers/{id}/resize", handle: containerResize},
	{method: "DELETE", path: "/containers/{id...}", handle: containerRemove},
}

func containerList(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	limit, err := c.number("limit")
	if err != nil {
		return err
	}
	o := engine.ListOptions{All: c.flag("all"), Size: c.flag("size"), Filters: f}
	if limit != nil {
		o.Limit = *limit
	}
	for _, old := range []string{"since", "before"} { // parameters of before 1.23 that clients still send
		if v := c.get(old); v != "" {
			f[old] = map[string]bool{v: true}
		}
	}
	list, err := c.backend.Views.List(c.ctx(), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, summariesFor(c.version, list))
}

func containerCreate(c *call) error {
	if c.r.ContentLength == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("invalid JSON: got EOF while reading request body")
	}
	var raw json.RawMessage
	if err := c.body(&raw); err != nil {
		return err
	}
	req, warnings, err := createRequest(c.version, raw)
	if err != nil {
		return err
	}
	req.Name = strings.TrimPrefix(c.get("name"), "/")
	if c.version >= 41 {
		if req.Platform, err = platformText(c.get("platform")); err != nil {
			return err
		}
	}
	resp, err := c.backend.Containers.Create(c.lasting(), req)
	if err != nil {
		return err
	}
	resp.Warnings = append(nonNil(resp.Warnings), warnings...)
	return c.writeJSON(http.StatusCreated, resp)
}

func containerInspect(c *call) error {
	resp, err := c.backend.Views.Inspect(c.ctx(), c.arg, c.flag("size"))
	if err != nil {
		return err
	}
	var labels map[string]string
	if resp.Config != nil {
		labels = resp.Config.Labels
	}
	return c.writeJSON(http.StatusOK, withEgress(inspectFor(c.version, resp), c.backend.Networks.EgressOf(resp.ID, labels)))
}

func containerTop(c *call) error {
	resp, err := c.backend.Views.Top(c.ctx(), c.arg, strings.Fields(c.get("ps_args")))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

// containerStart refuses a body as Docker does since 1.24; up to 7 bytes are
// let through because clients in use send "{}", "null" or a line end.
func containerStart(c *call) error {
	if c.r.ContentLength > 7 || c.r.ContentLength == -1 {
		return errdefs.ErrInvalidArgument.WithMessage("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if c.get("checkpoint") != "" || c.get("checkpoint-dir") != "" {
		return errdefs.ErrNotImplemented.WithMessage("starting a container from a checkpoint is not supported by this version of Hezi: start it without --checkpoint")
	}
	return c.noContent(c.backend.Containers.Start(c.lasting(), c.arg))
}

func (c *call) stopOptions() (engine.StopOptions, error) {
	o := engine.StopOptions{}
	if c.version >= 42 {
		o.Signal = c.get("signal")
	}
	var err error
	o.Timeout, err = c.number("t")
	return o, err
}

func containerStop(c *call) error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	return c.noContent(c.backend.Containers.Stop(c.lasting(), c.arg, o))
}

func containerRestart(c *call) error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	return c.noContent(c.backend.Containers.Restart(c.lasting(), c.arg, o))
}

func containerKill(c *call) error {
	return c.noContent(c.backend.Containers.Kill(c.lasting(), c.arg, c.get("signal")))
}

func containerPause(c *call) error {
	return c.noContent(c.backend.Containers.Pause(c.lasting(), c.arg))
}

func containerUnpause(c *call) error {
	return c.noContent(c.backend.Containers.Unpause(c.lasting(), c.arg))
}

func containerRename(c *call) error {
	return c.noContent(c.backend.Containers.Rename(c.lasting(), c.arg, c.get("name")))
}

func containerResize(c *call) error {
	h, w, err := c.size()
	if err != nil {
		return err
	}
	return c.ok(c.backend.Containers.Resize(c.ctx(), c.arg, h, w))
}

func containerRemove(c *call) error {
	o := engine.RemoveOptions{Force: c.flag("force"), Volumes: c.flag("v"), Link: c.flag("link")}
	return c.noContent(c.backend.Containers.Remove(c.lasting(), c.arg, o))
}

// waitCondition of a request. Before 1.30 there was none to choose.
func (c *call) waitCondition() (container.WaitCondition, error) {
	cond := container.WaitCondition(c.get("condition"))
	switch {
	case c.version < 30 || cond == "":
		return container.WaitConditionNotRunning, nil
	case cond == container.WaitConditionNextExit, cond == container.WaitConditionNotRunning:
		return cond, nil
	case cond == container.WaitConditionRemoved:
		return cond, nil
	}
	return "", errdefs.ErrInvalidArgument.WithMessage("invalid condition: \"" + string(cond) + "\"")
}
