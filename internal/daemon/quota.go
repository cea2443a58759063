package daemon

import (
	"errors"
	"os"
	"path/filepath"

	"hezi/internal/snapshot/quota"
)

// volumeQuota limits volumes by project quotas, as containers are.
type volumeQuota struct{}

// Limit bounds a folder.
func (volumeQuota) Limit(bytes uint64, dir string) error { return quota.Limit(bytes, dir) }

// Remove removes a tree and gives its folder's project back.
func (volumeQuota) Remove(tree, dir string) error {
	project := quota.Of(dir)
	err := os.RemoveAll(tree)
	if err == nil && project != 0 {
		err = errors.Join(err, quota.Forget(filepath.Dir(tree), project))
	}
	return err
}
