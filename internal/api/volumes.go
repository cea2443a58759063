package api

import (
	"net/http"

	"github.com/moby/moby/api/types/volume"
)

var volumeRoutes = []route{
	{method: "GET", path: "/volumes", handle: (*call).volumeList},
	{method: "POST", path: "/volumes/create", handle: (*call).volumeCreate},
	{method: "GET", path: "/volumes/{name...}", handle: (*call).volumeInspect},
	{method: "DELETE", path: "/volumes/{name...}", handle: (*call).volumeRemove},
}

func (c *call) volumeList() error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	list, err := c.backend.Volumes.List(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, volume.ListResponse{Volumes: nonNil(list), Warnings: []string{}})
}

func (c *call) volumeCreate() error {
	var r volume.CreateRequest
	if err := c.body(&r); err != nil {
		return err
	}
	v, err := c.backend.Volumes.Create(c.lasting(), r)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, v)
}

func (c *call) volumeInspect() error {
	v, err := c.backend.Volumes.Get(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, v)
}

func (c *call) volumeRemove() error {
	return c.noContent(c.backend.Volumes.Remove(c.lasting(), c.arg, c.flag("force")))
}
