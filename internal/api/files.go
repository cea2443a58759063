package api

import (
	"bufio"
	"context"
	"net/http"

	"hezi/internal/engine"
)

// Files is what the handlers need that read containers' file systems.
// *engine.Engine has it.
type Files interface {
	Export(ctx context.Context, ref string) (*engine.Export, error)
}

var fileRoutes = []route{
	{method: "GET", path: "/containers/{id}/export", handle: containerExport},
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
