package api

import (
	"net/http"

	"github.com/moby/moby/api/types/network"
)

var networkRoutes = []route{
	{method: "GET", path: "/networks", handle: networkList},
	{method: "GET", path: "/networks/{id}", handle: networkInspect},
	{method: "POST", path: "/networks/create", handle: networkCreate},
	{method: "POST", path: "/networks/prune", handle: networkPrune},
	{method: "POST", path: "/networks/{id}/connect", handle: networkConnect},
	{method: "POST", path: "/networks/{id}/disconnect", handle: networkDisconnect},
	{method: "DELETE", path: "/networks/{id}", handle: networkRemove},
	{method: "POST", path: "/hezi/containers/{id}/ports", handle: containerPorts},
	{method: "POST", path: "/hezi/containers/{id}/egress", handle: containerEgress},
}

func networkCreate(c *call) error {
	var q network.CreateRequest
	if err := c.body(&q); err != nil {
		return err
	}
	if c.version < 48 {
		q.EnableIPv4 = nil
	}
	id, err := c.backend.Networks.Create(c.lasting(), q)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, network.CreateResponse{ID: id})
}

func networkRemove(c *call) error {
	return c.noContent(c.backend.Networks.Remove(c.lasting(), c.arg))
}

func networkConnect(c *call) error {
	var q network.ConnectRequest
	if err := c.body(&q); err != nil {
		return err
	}
	if c.version < 54 && q.EndpointConfig != nil {
		q.EndpointConfig.MacAddress = nil
	}
	return c.ok(c.backend.Attachments.Connect(c.lasting(), q.Container, c.arg, q.EndpointConfig))
}

func networkDisconnect(c *call) error {
	var q network.DisconnectRequest
	if err := c.body(&q); err != nil {
		return err
	}
	return c.ok(c.backend.Attachments.Disconnect(c.lasting(), q.Container, c.arg, q.Force))
}

// containerPorts is Hezi's own: it changes the published ports of a container, also
// while it runs, and answers what is then published.
func containerPorts(c *call) error {
	var q struct{ Add, Remove network.PortMap }
	if err := c.body(&q); err != nil {
		return err
	}
	now, err := c.backend.Attachments.Publish(c.lasting(), c.arg, q.Add, q.Remove)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, now)
}

// containerEgress is Hezi's own: it changes what a container may send to, also while it
// runs.
func containerEgress(c *call) error {
	var q struct{ Policy string }
	if err := c.body(&q); err != nil {
		return err
	}
	return c.noContent(c.backend.Attachments.SetEgress(c.lasting(), c.arg, q.Policy))
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
	n, err := c.backend.Networks.Detail(c.ctx(), c.arg)
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
