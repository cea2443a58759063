package attach

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/network/egress"
)

// Egress refuses a policy that cannot be read, or not be enforced in a mode of network.
// Error: InvalidArgument.
func Egress(labels map[string]string, mode container.NetworkMode) error {
	p, err := egress.Parse(labels[egress.Label])
	if err == nil && p != nil && (mode.IsHost() || mode.IsContainer()) {
		err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("an egress policy cannot be enforced with --network %s: the container has no network of its own", mode))
	}
	return err
}
