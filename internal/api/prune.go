package api

import (
	"net/http"
	"time"

	"github.com/moby/moby/api/types/build"

	"hezi/internal/disk"
)

// pruneOptions of a prune. The parameters dry-run, without and now are Hezi's own:
// a dry run tells what would go, without being containers that it takes for
// removed; volumes go for good now.
func pruneOptions(c *call) (disk.PruneOptions, error) {
	f, err := c.filters()
	if f == nil {
		f = Filters{}
	}
	o := disk.PruneOptions{Filters: f, DryRun: c.flag("dry-run"), Now: c.flag("now"), Without: map[string]bool{}}
	if o.DryRun {
		for _, id := range c.query()["without"] {
			o.Without[id] = true
		}
	}
	return o, err
}

// lastUsed is when images were last used, by their ids.
func lastUsed(c *call) (map[string]time.Time, error) {
	if c.backend.Upkeep == nil {
		return nil, nil
	}
	return c.backend.Upkeep.LastUsed(c.ctx())
}

func containerPrune(c *call) error {
	o, err := pruneOptions(c)
	if err != nil {
		return err
	}
	resp, err := c.backend.Views.PruneContainers(c.ctx(), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

func networkPrune(c *call) error {
	o, err := pruneOptions(c)
	if err != nil {
		return err
	}
	report, err := c.backend.Networks.Prune(c.ctx(), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, report)
}

// buildPrune removes nothing: there is no build cache.
func buildPrune(c *call) error {
	return c.writeJSON(http.StatusOK, build.CachePruneReport{CachesDeleted: []string{}})
}

func imagePrune(c *call) error {
	o, err := pruneOptions(c)
	if err != nil {
		return err
	}
	resp, err := c.backend.Upkeep.Prune(c.ctx(), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

// volumePrune takes all volumes before API 1.42, and then anonymous ones only,
// unless a filter asks for all.
func volumePrune(c *call) error {
	o, err := pruneOptions(c)
	if err != nil {
		return err
	}
	if c.version < 42 {
		o.Filters["all"] = map[string]bool{"true": true}
	}
	resp, err := c.backend.Volumes.Prune(c.ctx(), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}
