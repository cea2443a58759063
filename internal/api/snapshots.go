package api

import "net/http"

// Hezi's own.
var snapshotRoutes = []route{
	{method: "GET", path: "/hezi/snapshots", handle: snapshotList},
	{method: "POST", path: "/hezi/containers/{id}/snapshots", handle: snapshotMake},
	{method: "DELETE", path: "/hezi/containers/{id}/snapshots", handle: snapshotRemove},
	{method: "POST", path: "/hezi/containers/{id}/rollback", handle: rollback},
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
