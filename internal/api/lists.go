package api

import (
	"net/http"

	"hezi/internal/image/lists"
	"hezi/internal/image/registry"
)

// listRoutes are Hezi's own: what `hezi manifest` asks of registries.
var listRoutes = []route{
	{method: "GET", path: "/hezi/manifest", handle: manifestGet},
	{method: "POST", path: "/hezi/manifest/list", handle: manifestPush},
}

func manifestGet(c *call) error {
	o, err := atRegistry(c)
	if err != nil {
		return err
	}
	m, err := c.backend.Lists.Fetch(c.ctx(), c.get("name"), c.flag("all"), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, m)
}

func manifestPush(c *call) error {
	o, err := atRegistry(c)
	if err != nil {
		return err
	}
	var q lists.Request
	if err := c.body(&q); err != nil {
		return err
	}
	pushed, err := c.backend.Lists.Put(c.ctx(), q, o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, pushed)
}

// atRegistry is who asks a registry, and how it may be asked.
func atRegistry(c *call) (o registry.RepositoryOptions, err error) {
	o.Auth, err = c.registryAuth()
	o.Headers, o.Insecure = metaHeaders(c.r.Header), c.flag("insecure")
	return o, err
}
