package daemon

import (
	"context"
	"time"

	"hezi/internal/daemon/config"
	"hezi/internal/network"
	"hezi/internal/relay"
)

// openRelay has published ports answer at ::1, or ends what a former engine had for that.
func (d *daemon) openRelay(ctx context.Context, c *config.Config, id string, o *network.Options) error {
	if !c.UserlandProxy {
		return relay.Stop(ctx, c.ExecRoot)
	}
	binary, err := keeperBinary()
	if err == nil {
		o.Relay = relay.NewClient(relay.Options{ExecRoot: c.ExecRoot, Identity: id, Binary: binary, Log: d.log})
	}
	return err
}

// stopRelay ends it with the engine.
func (d *daemon) stopRelay(execRoot string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return relay.Stop(ctx, execRoot)
}
