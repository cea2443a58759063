package daemon

import (
	"context"
	"fmt"
	"time"

	"hezi/internal/daemon/config"
	"hezi/internal/keeper"
	"hezi/internal/version"
)

// openKeeper finds the running keeper or starts one. A keeper of another build
// is asked to replace itself in place; if it cannot, the old one serves on as
// long as it speaks our protocol.
func (d *daemon) openKeeper(ctx context.Context, c *config.Config, id string) (client *keeper.Client, binary string, err error) {
	if binary, err = keeperBinary(); err != nil {
		return nil, "", err
	}
	client, err = keeper.EnsureRunning(ctx, keeper.EnsureOptions{ExecRoot: c.ExecRoot, Identity: id, Binary: binary, Version: version.Version})
	if err != nil {
		return nil, "", fmt.Errorf("hezi-keeper: %w", err)
	}
	info, err := client.Info(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("hezi-keeper: %w", err)
	}
	if info.Version == version.Version && info.ProtocolVersion == keeper.ProtocolVersion {
		return client, binary, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := client.Upgrade(ctx, binary); err != nil {
		if info.ProtocolVersion != keeper.ProtocolVersion {
			return nil, "", fmt.Errorf("the running hezi-keeper %s speaks another protocol and cannot be replaced by %s: %w", info.Version, binary, err)
		}
		d.log.Warn("hezi-keeper was not replaced, the old one serves on", "old", info.Version, "new", version.Version, "error", err)
		return client, binary, nil
	}
	now, err := client.Info(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("hezi-keeper: %w", err)
	}
	if now.ProtocolVersion != keeper.ProtocolVersion { // it would ignore part of what is asked of it
		return nil, "", fmt.Errorf("%s is hezi-keeper %s, which speaks another protocol than hezid %s: install both from the same build", binary, now.Version, version.Version)
	}
	if now.Version != version.Version {
		d.log.Warn("hezi-keeper is of another build than hezid: install both from the same one", "binary", binary, "keeper", now.Version, "hezid", version.Version)
		return client, binary, nil
	}
	d.log.Info("hezi-keeper replaced itself", "old", info.Version, "new", version.Version)
	return client, binary, nil
}
