package api

import (
	"bufio"
	"context"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

// Files is what the handlers need that read containers' file systems.
// *engine.Engine has it.
type Files interface {
	Export(ctx context.Context, ref string) (*engine.Export, error)
	Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error)
}

// Commits is what makes images of containers. engine.Commits has it.
type Commits interface {
	Commit(ctx context.Context, ref string, o engine.CommitOptions) (string, error)
}

var fileRoutes = []route{
	{method: "GET", path: "/containers/{id}/export", handle: containerExport},
	{method: "GET", path: "/containers/{id}/changes", handle: containerChanges},
	{method: "POST", path: "/commit", handle: commit},
}

func containerChanges(c *call) error {
	list, err := c.backend.Files.Changes(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, list)
}

func commit(c *call) error {
	q := c.query()
	o := engine.CommitOptions{Reference: withTag(q.Get("repo"), q.Get("tag")), Author: q.Get("author"), Message: q.Get("comment"),
		Changes: q["changes"], NoPause: q.Has("pause") && !c.flag("pause")}
	if err := c.optionalBody(&o.Config); err != nil {
		return err
	}
	id, err := c.backend.Commits.Commit(c.ctx(), q.Get("container"), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, container.CommitResponse{ID: id})
}

func containerExport(c *call) error {
	x, err := c.backend.Files.Export(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	defer x.Close()
	c.w.Header().Set("Content-Type", "application/octet-stream")
	c.w.WriteHeader(http.StatusOK)
	out := bufio.NewWriterSize(c.w, 256<<10) // of headers and small files
	if err := x.Write(c.ctx(), out); err != nil {
		return cutOff(c, err)
	}
	return cutOff(c, out.Flush())
}
