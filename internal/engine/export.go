package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/box"
	"hezi/internal/snapshot"
)

// Files reads what containers have on their file systems.
type Files struct{ *records }

// Export is a container's root file system, opened to be archived.
type Export struct {
	e       *records
	r       *record
	root    *os.File
	release func()
}

// Export opens the root file system of a container, whether it runs or not,
// without what is mounted on it.
func (e *Files) Export(ctx context.Context, ref string) (*Export, error) {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := c.latest.Load()
	if c.removing {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("You cannot export container %s which is being removed", r.ID))
	}
	root, err := e.root(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("Error exporting container %s: %w", ref, err) //nolint:staticcheck // the words are Docker's
	}
	return &Export{e: e.records, r: r, root: root, release: hold(e.records, c)}, nil
}

// root opens a container's merged layers: as the container itself has them
// mounted if it runs, for what it changes is only seen there as it is.
func (e *Files) root(ctx context.Context, r *record) (*os.File, error) {
	if r.running() && r.Users == nil { // mapped, its files would have the host's ids
		root, err := box.RootOf(r.PID, e.o.Layers.Place(r.ID, r.Chain))
		if !errors.Is(err, os.ErrNotExist) {
			return root, err
		}
	}
	return roots{e.records}.view(ctx, r, r.ID)
}

// Write archives it.
func (x *Export) Write(ctx context.Context, w io.Writer) error {
	if err := snapshot.Tar(ctx, x.root, w); err != nil {
		return fmt.Errorf("export of container %s: %w", x.r.ID, err)
	}
	x.e.publish(x.r, events.ActionExport)
	return nil
}

// Close lets it go.
func (x *Export) Close() error {
	defer x.release()
	return x.root.Close()
}
