package api

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

// Files is what the handlers need that read containers' file systems.
// *engine.Engine has it.
type Files interface {
	Export(ctx context.Context, ref string) (*engine.Export, error)
	Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error)
	StatPath(ctx context.Context, ref, path string) (container.PathStat, error)
	ArchivePath(ctx context.Context, ref, path string) (*engine.Archive, error)
	Extract(ctx context.Context, ref, path string, body io.Reader, o engine.ExtractOptions) error
}

// Commits is what makes images of containers. engine.Commits has it.
type Commits interface {
	Commit(ctx context.Context, ref string, o engine.CommitOptions) (string, error)
}

var fileRoutes = []route{
	{method: "GET", path: "/containers/{id}/export", handle: containerExport},
	{method: "GET", path: "/containers/{id}/changes", handle: containerChanges},
	{method: "HEAD", path: "/containers/{id}/archive", handle: archiveHead},
	{method: "GET", path: "/containers/{id}/archive", handle: archiveGet},
	{method: "PUT", path: "/containers/{id}/archive", handle: archivePut},
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
		Changes: q["changes"], NoPause: q.Get("pause") != "" && !c.flag("pause")}
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

// archivePath is the path that a copy is about.
func (c *call) archivePath() (string, error) {
	p := c.get("path")
	if p == "" {
		return "", errdefs.ErrInvalidArgument.WithMessage("bad parameter: 'path' cannot be empty")
	}
	return p, nil
}

// setPathStat tells about a path in the header of the answer.
func (c *call) setPathStat(st container.PathStat) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	c.w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(b))
	return nil
}

func archiveHead(c *call) error {
	p, err := c.archivePath()
	if err != nil {
		return err
	}
	st, err := c.backend.Files.StatPath(c.ctx(), c.arg, p)
	if err != nil {
		return err
	}
	return c.setPathStat(st)
}

func archiveGet(c *call) error {
	p, err := c.archivePath()
	if err != nil {
		return err
	}
	a, err := c.backend.Files.ArchivePath(c.ctx(), c.arg, p)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := c.setPathStat(a.Stat); err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	c.w.WriteHeader(http.StatusOK)
	out := bufio.NewWriterSize(c.w, 256<<10)
	if err := a.Write(c.ctx(), out); err != nil {
		return cutOff(c, err)
	}
	return cutOff(c, out.Flush())
}

func archivePut(c *call) error {
	p, err := c.archivePath()
	if err != nil {
		return err
	}
	o := engine.ExtractOptions{Overwrite: !c.flag("noOverwriteDirNonDir"), Owned: c.flag("copyUIDGID")}
	return c.backend.Files.Extract(c.ctx(), c.arg, p, c.r.Body, o)
}
