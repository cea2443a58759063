package api

import (
	"net/http"

	"github.com/moby/moby/api/types/volume"
)

var volumeRoutes = []route{
	{method: "GET", path: "/volumes", handle: volumeList},
	{method: "POST", path: "/volumes/create", handle: volumeCreate},
	{method: "POST", path: "/volumes/prune", handle: volumePrune},
	{method: "GET", path: "/volumes/{name...}", handle: volumeInspect},
	{method: "DELETE", path: "/volumes/{name...}", handle: volumeRemove},
}

func volumeList(c *call) error {
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

func volumeCreate(c *call) error {
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

func volumeInspect(c *call) error {
	v, err := c.backend.Volumes.Get(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, v)
}

func volumeRemove(c *call) error {
	remove := c.backend.Volumes.Remove
	if c.flag("now") { // Hezi's own: for good, and not into the trash
		remove = c.backend.VolumeTrash.RemoveNow
	}
	return c.noContent(remove(c.lasting(), c.arg, c.flag("force")))
}
