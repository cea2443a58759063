package api

import (
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"
	types "github.com/moby/moby/api/types/registry"

	"hezi/internal/image/registry"
)

var registryRoutes = []route{
	{method: "POST", path: "/auth", handle: registryLogin},
	{method: "GET", path: "/images/search", handle: registrySearch},
	{method: "GET", path: "/distribution/{name...}/json", handle: registryInspect},
	{method: "GET", path: "/hezi/registry/test", handle: registryTest},
}

func registryLogin(c *call) error {
	var auth types.AuthConfig
	if err := c.body(&auth); err != nil {
		return err
	}
	resp, err := c.backend.Registries.Login(c.ctx(), auth)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

func registrySearch(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	q := registry.SearchRequest{Term: c.get("term"), Filters: f, Auth: c.anyAuth(), Headers: metaHeaders(c.r.Header)}
	if limit := c.get("limit"); limit != "" {
		if q.Limit, err = strconv.Atoi(limit); err != nil || q.Limit < 0 {
			return errdefs.ErrInvalidArgument.WithMessage("invalid limit specified: " + strconv.Quote(limit) + ": a number from 1 to 100 is needed")
		}
	}
	found, err := c.backend.Registries.Search(c.ctx(), q)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, found)
}

func registryInspect(c *call) error {
	d, err := c.backend.Registries.Inspect(c.ctx(), c.arg, registry.RepositoryOptions{Auth: c.anyAuth(), Headers: metaHeaders(c.r.Header)})
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, d)
}

// registryTest is Hezi's own: what each host says that a registry's images may
// come from.
func registryTest(c *call) error {
	auth, err := c.registryAuth()
	if err != nil {
		return err
	}
	report, err := c.backend.Registries.Test(c.ctx(), c.get("name"), auth)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, report)
}

// anyAuth is registryAuth where clients send what is none, as Docker's do: it
// counts as nobody.
func (c *call) anyAuth() *types.AuthConfig {
	auth, err := c.registryAuth()
	if err != nil {
		return nil
	}
	return auth
}
