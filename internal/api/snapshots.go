package api

import (
	"net/http"

	"github.com/moby/moby/api/types/mount"
)

// Hezi's own.
var snapshotRoutes = []route{
	{method: "GET", path: "/hezi/snapshots", handle: snapshotList},
	{method: "POST", path: "/hezi/containers/{id}/snapshots", handle: snapshotMake},
	{method: "DELETE", path: "/hezi/containers/{id}/snapshots", handle: snapshotRemove},
	{method: "POST", path: "/hezi/containers/{id}/rollback", handle: rollback},
}

// Hezi's own.
var mountRoutes = []route{
	{method: "POST", path: "/hezi/containers/{id}/mounts", handle: containerMounts},
}

// containerMounts changes what is mounted in a container, also while it runs.
func containerMounts(c *call) error {
	var q struct {
		Add    []mount.Mount
		Remove []string
	}
	if err := c.body(&q); err != nil {
		return err
	}
	return c.noContent(c.backend.Mounts.Change(c.lasting(), c.arg, q.Add, q.Remove))
}

// snapshotList lists those of ?container=, or of all containers.
func snapshotList(c *call) error {
	list, err := c.backend.Snapshots.Snapshots(c.ctx(), c.get("container"))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, list)
}

// snapshotMake makes one, ?name=, by default named by the time.
func snapshotMake(c *call) error {
	made, err := c.backend.Snapshots.Snapshot(c.ctx(), c.arg, c.get("name"))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, made)
}

func snapshotRemove(c *call) error {
	return c.noContent(c.backend.Snapshots.RemoveSnapshot(c.lasting(), c.arg, c.get("name")))
}

func rollback(c *call) error {
	return c.noContent(c.backend.Snapshots.Rollback(c.lasting(), c.arg, c.get("name")))
}
