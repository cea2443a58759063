package api

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine"
)

// Limits is what the handlers need that change and measure what containers
// use. *engine.Engine has it.
type Limits interface {
	Update(ctx context.Context, ref string, q container.UpdateConfig) (container.UpdateResponse, error)
	Stats(ctx context.Context, ref string, o engine.StatsOptions, out func(*container.StatsResponse) error) error
	SetHugePages(ctx context.Context, ref, limits string) error
	StatsOf(ctx context.Context, refs []string, all bool) ([]*container.StatsResponse, error)
}

var limitRoutes = []route{
	{method: "POST", path: "/containers/{id}/update", handle: containerUpdate},
	{method: "GET", path: "/containers/{id}/stats", handle: containerStats},
	{method: "GET", path: "/hezi/containers/stats", handle: containersStats},
	{method: "POST", path: "/hezi/containers/{id}/hugetlb", handle: containerHugePages},
}

func containerUpdate(c *call) error {
	var q container.UpdateConfig
	if err := c.body(&q); err != nil {
		return err
	}
	olderUpdate(c.version, &q)
	resp, err := c.backend.Limits.Update(c.lasting(), c.arg, q)
	if err != nil {
		return err
	}
	resp.Warnings = nonNil(resp.Warnings)
	return c.writeJSON(http.StatusOK, resp)
}

// containerHugePages is Hezi's own: it changes the limits of huge pages, also while the
// container runs.
func containerHugePages(c *call) error {
	var q struct{ Limits string }
	if err := c.body(&q); err != nil {
		return err
	}
	return c.noContent(c.backend.Limits.SetHugePages(c.lasting(), c.arg, q.Limits))
}

// olderUpdate ignores what a version did not have, and makes every word for no
// limit of processes the same.
func olderUpdate(v apiVersion, q *container.UpdateConfig) {
	if v < 40 {
		q.PidsLimit = nil
	}
	if v < 55 {
		q.BlkioWeightDevice = nil
		q.BlkioDeviceReadBps, q.BlkioDeviceWriteBps = nil, nil
		q.BlkioDeviceReadIOps, q.BlkioDeviceWriteIOps = nil, nil
	}
	if q.PidsLimit != nil && *q.PidsLimit <= 0 {
		q.PidsLimit = new(int64(0))
	}
}

// containerStats streams by default. The headers go out with the first record,
// while an error can still be said with a status.
func containerStats(c *call) error {
	o := engine.StatsOptions{Stream: c.flagOr("stream", true), OneShot: c.version >= 41 && c.flag("one-shot")}
	ctx, cancel := c.streaming()
	defer cancel()
	return c.backend.Limits.Stats(ctx, c.arg, o, func(s *container.StatsResponse) error {
		if err := c.writeJSONBody(s); err != nil {
			return err
		}
		if o.Stream {
			c.flush()
		}
		return nil
	})
}

// containersStats is Hezi's own: one sample of many containers in one answer.
func containersStats(c *call) error {
	list, err := c.backend.Limits.StatsOf(c.ctx(), c.query()["container"], c.flag("all"))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, nonNil(list))
}
