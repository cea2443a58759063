package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"hezi/internal/engine/spec"
	"hezi/internal/image"
	"hezi/internal/snapshot"
)

// compared opens what tells a locked container's changes. They are closed by close.
func (e *Files) compared(ctx context.Context, c *entry) (t snapshot.Trees, close func(), err error) {
	r, release := c.latest.Load(), hold(e.records, c)
	leave := func() {
		for _, f := range append(t.Upper, t.Merged, t.Lower) {
			if f != nil {
				f.Close()
			}
		}
		release()
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()
	if t.Lower, err = (roots{e.records}).view(ctx, r, ""); err != nil {
		return t, nil, err
	}
	if t.Merged, err = e.root(ctx, r); err != nil {
		return t, nil, err
	}
	w := e.o.layer(r)
	if w.Upper == "" { // the driver keeps it together with the image's
		return t, leave, nil
	}
	for _, dir := range append([]string{w.Upper}, w.Below...) {
		f, err := os.Open(dir)
		if err != nil {
			return t, nil, err
		}
		t.Upper = append(t.Upper, f)
	}
	return t, leave, nil
}

// Changes lists what a container has otherwise than its image, in the order of
// names; it may run.
func (e *Files) Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error) {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return nil, err
	}
	t, close, err := e.compared(ctx, c)
	unlock()
	if err != nil {
		return nil, fmt.Errorf("compare container %s with its image: %w", ref, err)
	}
	defer close()
	list := []container.FilesystemChange{}
	err = snapshot.Changes(ctx, t, func(change snapshot.Change) error {
		list = append(list, container.FilesystemChange{Kind: container.ChangeType(change.Kind), Path: change.Path})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compare container %s with its image: %w", ref, err)
	}
	return list, nil
}

// Commits make images of containers. image.Commits has what they need.
type Commits struct {
	*Engine
	Images interface {
		Commit(ctx context.Context, r image.CommitRequest) (digest.Digest, string, error)
	}
}

// CommitOptions of POST /commit.
type CommitOptions struct {
	Reference       string // "" leaves the image without a name
	Author, Message string
	Changes         []string // Dockerfile instructions
	NoPause         bool
	Config          *container.Config // completes the container's; nil: the container's
}

// Commit makes an image of a container's and what the container changed, which
// is frozen meanwhile unless NoPause. It returns the image's id. Errors:
// NotFound, InvalidArgument, Conflict for one that is being removed.
func (e Commits) Commit(ctx context.Context, ref string, o CommitOptions) (string, error) {
	c, err := e.find(ref)
	if err != nil {
		return "", err
	}
	r := c.latest.Load()
	config := *r.Config
	if o.Config != nil {
		if config, err = spec.Merge(*o.Config, imageConfig(r.Config)); err != nil {
			return "", err
		}
	}
	q := image.CommitRequest{Base: r.image(), Reference: o.Reference, Author: o.Author, Message: o.Message,
		Config: imageConfig(&config), Changes: o.Changes, CreatedBy: strings.Join(r.Config.Cmd, " ")}
	if err := q.Check(); err != nil {
		return "", err
	}
	if !o.NoPause {
		thawed, err := frozen(ctx, e.Engine, c, "the commit (--no-pause does without)")
		if err != nil {
			return "", err
		}
		defer thawed()
	}
	id, name, err := e.commit(ctx, r.ID, q)
	if err != nil {
		return "", err
	}
	e.publish(r, events.ActionCommit, "comment", o.Message, "imageID", id, "imageRef", name)
	return id, nil
}

// frozen freezes a container, if it runs, until thawed is called, for some work on its
// files.
func frozen(ctx context.Context, e *Engine, c *entry, work string) (thawed func(), err error) {
	r := c.latest.Load()
	if r.State != container.StateRunning {
		return func() {}, nil
	}
	switch err := e.pause(ctx, r.ID, true); {
	case errdefs.IsConflict(err): // paused already, or ended
		return func() {}, nil
	case err != nil:
		return nil, fmt.Errorf("pause container %s for %s: %w", r.ID, work, err)
	}
	paused := c.latest.Load() // maybe another run than r: it may have been started again meanwhile
	return func() {
		if err := thaw(context.WithoutCancel(ctx), e, paused, true); err != nil {
			e.o.Log.Error("a container stays paused: hezi unpause lets it go on", "container", r.ID, "for", work, "error", err)
		}
	}, nil
}

// errChanged ends a look for changes at the first.
var errChanged = errors.New("something changed")

// commit writes the changes into the image store as they are read.
func (e Commits) commit(ctx context.Context, containerID string, q image.CommitRequest) (id, name string, err error) {
	c, unlock, err := e.lock(ctx, containerID)
	if err != nil {
		return "", "", err
	}
	if c.removing {
		unlock()
		return "", "", errdefs.ErrConflict.WithMessage(fmt.Sprintf("You cannot commit container %s which is being removed", containerID))
	}
	t, close, err := e.compared(ctx, c)
	unlock()
	if err != nil {
		return "", "", fmt.Errorf("commit container %s: %w", containerID, err)
	}
	defer close()
	err = snapshot.Changes(ctx, t, func(snapshot.Change) error { return errChanged })
	if err != nil && !errors.Is(err, errChanged) {
		return "", "", fmt.Errorf("commit container %s: %w", containerID, err)
	}
	if err == nil {
		made, name, err := e.Images.Commit(ctx, q)
		return made.String(), name, err
	}
	read, write := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := snapshot.TarChanges(ctx, t, write)
		write.CloseWithError(err)
		ended <- err
	}()
	q.Layer = read
	made, name, err := e.Images.Commit(ctx, q)
	read.CloseWithError(io.ErrClosedPipe)
	if reading := <-ended; reading != nil && !errors.Is(reading, io.ErrClosedPipe) {
		err = reading
	}
	if err != nil {
		return "", "", fmt.Errorf("commit container %s: %w", containerID, err)
	}
	return made.String(), name, nil
}

// imageConfig is what an image keeps of a container's configuration.
func imageConfig(c *container.Config) dockerspec.DockerOCIImageConfig {
	var i dockerspec.DockerOCIImageConfig
	i.User, i.WorkingDir, i.StopSignal = c.User, c.WorkingDir, c.StopSignal
	i.Env, i.Entrypoint, i.Cmd = slices.Clone(c.Env), slices.Clone(c.Entrypoint), slices.Clone(c.Cmd)
	i.Volumes, i.Labels, i.Shell = copied(c.Volumes), copied(c.Labels), slices.Clone(c.Shell)
	i.Healthcheck, i.OnBuild = c.Healthcheck, slices.Clone(c.OnBuild)
	for port := range c.ExposedPorts {
		if i.ExposedPorts == nil {
			i.ExposedPorts = map[string]struct{}{}
		}
		i.ExposedPorts[port.String()] = struct{}{}
	}
	return i
}

// copied is a copy of a map; of an empty one nil, which images leave out.
func copied[V any](m map[string]V) map[string]V {
	if len(m) == 0 {
		return nil
	}
	next := map[string]V{}
	for k, v := range m {
		next[k] = v
	}
	return next
}
