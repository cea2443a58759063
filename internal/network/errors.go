package network

import (
	"fmt"

	"github.com/containerd/errdefs"

	"hezi/internal/network/options"
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func conflict(format string, args ...any) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(format, args...))
}

func forbidden(format string, args ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, args...))
}

func notFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}

func unavailable(format string, args ...any) error {
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(format, args...))
}

func notThere(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}

// noBridge is said to those who ask for the network bridge where there is none.
const noBridge = `network bridge not found: hezid is to make none ("bridge": "none" in its configuration): make a network (hezi network create) and name it with --network`

// ErrNoBridge is an InvalidArgument, of containers.
var ErrNoBridge = errdefs.ErrInvalidArgument.WithMessage(noBridge)

func parseEndpoint(r EndpointRequest) (options.Endpoint, error) {
	if len(r.DriverOpts) == 0 { // every start comes here
		return options.Endpoint{}, nil
	}
	return options.ParseEndpoint(r.DriverOpts)
}
