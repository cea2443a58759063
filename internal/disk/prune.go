package disk

// PruneOptions of POST /containers/prune, /images/prune and /volumes/prune.
type PruneOptions struct {
	Filters map[string]map[string]bool
	DryRun  bool // tell what would go, and remove nothing
	Now     bool // volumes: for good, and not into the trash
	// Without are containers that a dry run takes for removed, by their ids.
	Without map[string]bool
}
