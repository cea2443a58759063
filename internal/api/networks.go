package api

import (
	"net/http"

	"github.com/moby/moby/api/types/network"
)

var networkRoutes = []route{
	{method: "GET", path: "/networks", handle: networkList},
	{method: "GET", path: "/networks/{id}", handle: networkInspect},
}

func networkList(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	list, err := c.backend.Networks.List(c.ctx(), f)
	if err != nil {
		return err
	}
	if c.version < 28 { // lists carried what inspect has
		return c.writeJSON(http.StatusOK, nonNil(list))
	}
	out := make([]network.Summary, 0, len(list))
	for _, n := range list {
		out = append(out, network.Summary{Network: n.Network})
	}
	return c.writeJSON(http.StatusOK, out)
}

func networkInspect(c *call) error {
	n, err := c.backend.Networks.Inspect(c.ctx(), c.arg)
	if err != nil {
		return err
	}
	if c.version < 52 {
		n.Status = nil
	}
	return c.writeJSON(http.StatusOK, n)
}

// nonNil makes an empty list "[]": clients of typed languages do not expect null.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
