package api

import (
	"github.com/containerd/errdefs"
)

// missing refuses an operation that this version of Hezi does not have yet:
// what is missing and what does the same meanwhile.
func missing(what, instead string) func(*call) error {
	return func(*call) error {
		return errdefs.ErrNotImplemented.WithMessage(what + " is not supported by this version of Hezi: " + instead)
	}
}

var missingRoutes = []route{
	{method: "GET", path: "/containers/{id}/attach/ws", handle: missing("attach over a websocket", "use POST /containers/{id}/attach")},
	{method: "POST", path: "/build", handle: missing("build", "build the image elsewhere, for example with docker buildx or buildah, and load it (hezi load) or push it to a registry and pull it")},
	{method: "POST", path: "/build/cancel", handle: missing("build", "there is no build that could be cancelled")},
	{method: "POST", path: "/session", handle: missing("build", "build the image elsewhere, and load or pull it")},
	{method: "POST", path: "/grpc", handle: missing("build", "build the image elsewhere, and load or pull it")},
	{method: "PUT", path: "/volumes/{name...}", handle: missing("update of a volume", "only cluster volumes can be updated, and there is no cluster")},
}

// notInSwarm answers as an engine does that is in no swarm; the texts are Docker's.
func notInSwarm(*call) error {
	return errdefs.ErrUnavailable.WithMessage(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
}

// noSwarm refuses to begin or enter a swarm.
func noSwarm(*call) error {
	return errdefs.ErrNotImplemented.WithMessage("this engine has no swarm mode: run Kubernetes on it for more than one machine, or Compose for one")
}

// notPart answers what asks to leave a swarm, or to unlock one.
func notPart(*call) error {
	return errdefs.ErrUnavailable.WithMessage("This node is not part of a swarm")
}

var swarmRoutes = []route{
	{method: "GET", path: "/nodes", handle: notInSwarm},
	{method: "GET", path: "/nodes/{id}", handle: notInSwarm},
	{method: "DELETE", path: "/nodes/{id}", handle: notInSwarm},
	{method: "POST", path: "/nodes/{id}/update", handle: notInSwarm},
	{method: "GET", path: "/swarm", handle: notInSwarm},
	{method: "POST", path: "/swarm/init", handle: noSwarm},
	{method: "POST", path: "/swarm/join", handle: noSwarm},
	{method: "POST", path: "/swarm/leave", handle: notPart},
	{method: "POST", path: "/swarm/update", handle: notInSwarm},
	{method: "GET", path: "/swarm/unlockkey", handle: notInSwarm},
	{method: "POST", path: "/swarm/unlock", handle: notPart},
	{method: "GET", path: "/services", handle: notInSwarm},
	{method: "POST", path: "/services/create", handle: notInSwarm},
	{method: "GET", path: "/services/{id}", handle: notInSwarm},
	{method: "DELETE", path: "/services/{id}", handle: notInSwarm},
	{method: "POST", path: "/services/{id}/update", handle: notInSwarm},
	{method: "GET", path: "/services/{id}/logs", handle: notInSwarm},
	{method: "GET", path: "/tasks", handle: notInSwarm},
	{method: "GET", path: "/tasks/{id}", handle: notInSwarm},
	{method: "GET", path: "/tasks/{id}/logs", handle: notInSwarm},
	{method: "GET", path: "/secrets", handle: notInSwarm},
	{method: "POST", path: "/secrets/create", handle: notInSwarm},
	{method: "GET", path: "/secrets/{id}", handle: notInSwarm},
	{method: "DELETE", path: "/secrets/{id}", handle: notInSwarm},
	{method: "POST", path: "/secrets/{id}/update", handle: notInSwarm},
	{method: "GET", path: "/configs", handle: notInSwarm},
	{method: "POST", path: "/configs/create", handle: notInSwarm},
	{method: "GET", path: "/configs/{id}", handle: notInSwarm},
	{method: "DELETE", path: "/configs/{id}", handle: notInSwarm},
	{method: "POST", path: "/configs/{id}/update", handle: notInSwarm},
}

// noPlugins refuses Docker's managed plugins.
func noPlugins(*call) error {
	return errdefs.ErrNotImplemented.WithMessage("managed plugins are not supported by this engine: what Docker's plugins add is built in or done by programs beside the engine")
}

var pluginRoutes = []route{
	{method: "GET", path: "/plugins", handle: func(c *call) error { return c.writeJSON(200, []struct{}{}) }},
	{method: "GET", path: "/plugins/privileges", handle: noPlugins},
	{method: "POST", path: "/plugins/pull", handle: noPlugins},
	{method: "GET", path: "/plugins/{name...}/json", handle: noPlugins},
	{method: "DELETE", path: "/plugins/{name...}", handle: noPlugins},
	{method: "POST", path: "/plugins/{name...}/enable", handle: noPlugins},
	{method: "POST", path: "/plugins/{name...}/disable", handle: noPlugins},
	{method: "POST", path: "/plugins/{name...}/upgrade", handle: noPlugins},
	{method: "POST", path: "/plugins/create", handle: noPlugins},
	{method: "POST", path: "/plugins/{name...}/push", handle: noPlugins},
	{method: "POST", path: "/plugins/{name...}/set", handle: noPlugins},
}
