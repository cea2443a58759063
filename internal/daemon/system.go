package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"hezi/internal/api"
	"hezi/internal/daemon/config"
	"hezi/internal/engine/cdi"
	"hezi/internal/engine/oci"
	"hezi/internal/keeper"
)

// systemRoom answers what concerns the engine as a whole.
type systemRoom struct {
	conf       func() *config.Config
	id         string // the engine's, for as long as its data root lives
	keeperPath string
	keeper     *keeper.Client
	backend    *api.Backend
	events     eventSource
	warnings   func() []string // of the network
	devices    *cdi.Registry
	runtimes   *oci.Registry
	storage    *storage
}

var _ api.System = (*systemRoom)(nil)

// engineID is made once and kept in the data root.
func engineID(dataRoot string) (string, error) {
	path := filepath.Join(dataRoot, "engine-id")
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the engine's id: %w", err)
	}
	id := uuid.NewString()
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("the engine's id: %w", err)
	}
	return id, nil
}
