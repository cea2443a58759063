package engine

import (
	"github.com/moby/moby/api/types/container"

	"hezi/internal/engine/spec"
)

// enforce takes out of r what this host cannot enforce and Docker discards
// with a warning.
func (e *records) enforce(r *container.Resources) (warnings []string, err error) {
	host, err := e.support()
	if err != nil {
		return nil, err
	}
	return spec.Enforce(r, host)
}
