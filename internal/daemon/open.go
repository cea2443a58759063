package daemon

import (
	"context"
	"errors"

	"hezi/internal/daemon/config"
)

// open wires the rooms, in the order in which they need each other.
func (d *daemon) open(ctx context.Context, c *config.Config) (*rooms, error) {
	id := identity(c.DataRoot, c.ExecRoot)
	if _, _, err := d.openKeeper(ctx, c, id); err != nil {
		return nil, err
	}
	if _, err := engineID(c.DataRoot); err != nil {
		return nil, err
	}
	return nil, errors.New("this build of hezid has no engine room: nothing can be served")
}
