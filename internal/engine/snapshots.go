package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"hezi/internal/box"
	"hezi/internal/snapshot"
)

// Events of snapshots. They are Hezi's own.
const (
	actionSnapshot       events.Action = "snapshot"
	actionSnapshotRemove events.Action = "snapshot-remove"
	actionRollback       events.Action = "rollback"
)

// savepoint is a snapshot in a container's record.
type savepoint struct {
	Name    string
	Created time.Time
	Chain   snapshot.Chain // its layers
}

// Snapshot is what a container had on its own layers at a moment.
type Snapshot struct {
	Name          string
	ContainerID   string
	ContainerName string
	Created       time.Time
	Size          int64 // bytes written since the snapshot before
}

// Snapshots keep what containers have written, and bring it back.
type Snapshots struct{ *Engine }

// layer is where a container's own layers are.
func (o *Options) layer(r *record) snapshot.Writable { return o.Layers.Get(r.ID, r.Chain) }

// hold keeps the layers of a container that is locked now for somebody who reads
// them without the lock: none is deleted until release is called.
func hold(e *records, c *entry) (release func()) {
	c.views.Add(1)
	return func() {
		if c.views.Add(-1) == 0 && c.untidy.Load() && e.ctx.Err() == nil {
			e.work.Go(func() {
				if c, unlock, err := e.lockKnown(e.ctx, c.latest.Load().ID); err == nil {
					tidy(e, c)
					unlock()
				}
			})
		}
	}
}

// tidy deletes the layers of a locked container that nothing has any more, if nobody
// reads them; then it is done at the end of that, or at the next start of hezid.
func tidy(e *records, c *entry) {
	r := c.latest.Load()
	if (roots{e}).here(r) != nil {
		return // its layers are another driver's
	}
	c.untidy.Store(true) // ahead of the look: who reads may end just now
	if c.views.Load() > 0 {
		return
	}
	c.untidy.Store(false)
	chains := []snapshot.Chain{r.Chain}
	for _, s := range r.Snapshots {
		chains = append(chains, s.Chain)
	}
	if err := e.o.Layers.Keep(r.ID, chains...); err != nil {
		e.o.Log.Warn("layers of a container that are not used any more are left", "container", r.ID, "error", err)
	}
}

// Snapshot keeps what a container has on its own layers now under a name; "" is the
// time. A container that runs is frozen while its layer is copied: one that
// does not starts a new layer, and with most drivers nothing is copied. Errors: NotFound,
// InvalidArgument, Conflict for a name in use and for a container of --rm.
func (e Snapshots) Snapshot(ctx context.Context, ref, name string) (Snapshot, error) {
	var none Snapshot
	if name == "" {
		name = time.Now().UTC().Format("20060102T150405.000Z")
	}
	if !snapshotName(name) {
		return none, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid snapshot name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, 128 characters at most", name))
	}
	c, err := e.find(ref)
	if err != nil {
		return none, err
	}
	id := c.latest.Load().ID
	thawed, err := frozen(ctx, e.Engine, c, "the snapshot")
	if err != nil {
		return none, err
	}
	defer thawed()
	c, unlock, err := e.lock(ctx, id)
	if err != nil {
		return none, err
	}
	r := c.latest.Load()
	if err := e.snapshotable(ctx, c, name); err != nil {
		unlock()
		return none, err
	}
	if !r.running() {
		defer unlock()
		return e.push(ctx, c, name)
	}
	release := hold(e.records, c)
	unlock()
	defer release()
	return e.copied(ctx, c, r, name)
}

func snapshotName(name string) bool {
	letter := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	}
	return len(name) <= 128 && letter(rune(name[0])) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !letter(r) && !strings.ContainsRune("_.-", r) })
}

// snapshotable says whether a locked container can have one more snapshot.
func (e Snapshots) snapshotable(ctx context.Context, c *entry, name string) error {
	r := c.latest.Load()
	conflict := func(format string, args ...any) error {
		return errdefs.ErrConflict.WithMessage("cannot make a snapshot of container " + r.Name + ": " + fmt.Sprintf(format, args...))
	}
	switch {
	case c.removing:
		return conflict("it is being removed")
	case r.HostConfig.AutoRemove:
		return conflict("it is removed when it ends (--rm), and a rollback needs that it has ended: hezi commit keeps what it wrote as an image")
	case slices.ContainsFunc(r.Snapshots, func(s savepoint) bool { return s.Name == name }):
		return conflict("it has a snapshot %s already: choose another name, or remove that one: hezi snapshots --rm %s %s", name, name, r.Name)
	}
	if err := (roots{e.records}).here(r); err != nil {
		return err
	}
	img, err := e.o.Images.RootFS(ctx, r.image())
	if err != nil {
		return err
	}
	if limit := box.MaxLayers(); len(img.Lower)+len(r.Chain.All())+2 > limit {
		return conflict("its image and snapshots have %d layers, and the kernel mounts %d: remove snapshots: hezi snapshots --rm NAME %s", len(img.Lower)+len(r.Chain.All()), limit, r.Name)
	}
	return nil
}

// push keeps what a locked container that does not run has as it is, and gives the
// container something else to write to.
func (e Snapshots) push(ctx context.Context, c *entry, name string) (Snapshot, error) {
	r := c.latest.Load()
	next, err := e.o.Layers.Grow(ctx, r.ID, r.Chain)
	if err != nil {
		return Snapshot{}, err
	}
	return e.keep(c, savepoint{Name: name, Created: time.Now().UTC(), Chain: r.Chain.All()}, next)
}

// copied copies the layer that a frozen container writes to. The caller holds its layers.
func (e Snapshots) copied(ctx context.Context, c *entry, r *record, name string) (Snapshot, error) {
	saved, err := e.o.Layers.Copy(ctx, r.ID, r.Chain)
	if err != nil {
		c.untidy.Store(true)
		return Snapshot{}, fmt.Errorf("copy the layer of container %s: %w", r.Name, err)
	}
	c, unlock, err := e.lockKnown(ctx, r.ID)
	if err != nil {
		return Snapshot{}, err
	}
	defer unlock()
	now := c.latest.Load()
	if !now.running() || now.PID != r.PID || now.State != container.StatePaused {
		c.untidy.Store(true)
		return Snapshot{}, errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s ran on or ended while its layer was copied: make the snapshot again", r.Name))
	}
	if err := e.snapshotable(ctx, c, name); err != nil {
		c.untidy.Store(true)
		return Snapshot{}, err
	}
	return e.keep(c, savepoint{Name: name, Created: time.Now().UTC(), Chain: saved}, now.Chain)
}

// keep stores a snapshot of a locked container, and the chain that it writes to from now on.
func (e Snapshots) keep(c *entry, s savepoint, chain snapshot.Chain) (Snapshot, error) {
	r, err := e.change(c, func(r *record) {
		r.Snapshots, r.Chain = append(slices.Clone(r.Snapshots), s), chain
	})
	if err != nil {
		tidy(e.records, c)
		return Snapshot{}, err
	}
	e.publish(r, actionSnapshot, "snapshot", s.Name)
	return Snapshot{Name: s.Name, ContainerID: r.ID, ContainerName: r.Name, Created: s.Created}, nil
}

// Snapshots lists them, of one container or of all (ref is ""), oldest first.
func (e Snapshots) Snapshots(ctx context.Context, ref string) ([]Snapshot, error) {
	boxes := e.entries()
	if ref != "" {
		c, err := e.find(ref)
		if err != nil {
			return nil, err
		}
		boxes = []*entry{c}
	}
	list := []Snapshot{}
	for _, c := range boxes {
		if len(c.latest.Load().Snapshots) == 0 {
			continue
		}
		c, unlock, err := e.lockKnown(ctx, c.latest.Load().ID)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, release := c.latest.Load(), hold(e.records, c)
		unlock()
		for _, s := range r.Snapshots {
			size, err := e.o.Layers.SizeOf(ctx, r.ID, s.Chain.All()[0])
			if err != nil {
				size = -1
				e.o.Log.Warn("the size of a snapshot is not known", "container", r.ID, "snapshot", s.Name, "error", err)
			}
			list = append(list, Snapshot{Name: s.Name, ContainerID: r.ID, ContainerName: r.Name, Created: s.Created, Size: size})
		}
		release()
	}
	slices.SortStableFunc(list, func(a, b Snapshot) int {
		return cmp.Or(strings.Compare(a.ContainerName, b.ContainerName), a.Created.Compare(b.Created))
	})
	return list, nil
}

// RemoveSnapshot gives a snapshot up. Error: NotFound.
func (e Snapshots) RemoveSnapshot(ctx context.Context, ref, name string) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := snapshotOf(c, name); err != nil {
		return err
	}
	r, err := e.change(c, func(r *record) {
		r.Snapshots = slices.DeleteFunc(slices.Clone(r.Snapshots), func(s savepoint) bool { return s.Name == name })
	})
	if err != nil {
		return err
	}
	e.publish(r, actionSnapshotRemove, "snapshot", name)
	tidy(e.records, c)
	e.flattenBehind(r.ID)
	return nil
}

func snapshotOf(c *entry, name string) (savepoint, error) {
	r := c.latest.Load()
	for _, s := range r.Snapshots {
		if s.Name == name {
			return s, nil
		}
	}
	if len(r.Snapshots) == 0 {
		return savepoint{}, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("No such snapshot: container %s has none: hezi snapshot %s NAME makes one", r.Name, r.Name))
	}
	return savepoint{}, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("No such snapshot: %s of container %s: hezi snapshots %s lists them", name, r.Name, r.Name))
}

// Rollback gives a container that does not run the files of a snapshot again: what it
// wrote since is given up, snapshots stay. Errors: NotFound, Conflict.
func (e Snapshots) Rollback(ctx context.Context, ref, name string) error {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := snapshotOf(c, name)
	if err != nil {
		return err
	}
	r := c.latest.Load()
	switch {
	case c.removing:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot roll back container %s: it is being removed", r.Name))
	case r.running() || r.State == container.StateRestarting:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot roll back container %s: it is %s: stop it first (hezi stop %s), or have it stopped, rolled back and started: hezi rollback --restart %s %s",
			r.Name, r.State, r.Name, r.Name, name))
	}
	if err := (roots{e.records}).here(r); err != nil {
		return err
	}
	next, err := e.o.Layers.Grow(ctx, r.ID, s.Chain)
	if err != nil {
		return err
	}
	if r, err = e.change(c, func(r *record) { r.Chain = next }); err != nil {
		tidy(e.records, c)
		return err
	}
	e.publish(r, actionRollback, "snapshot", name)
	tidy(e.records, c)
	e.flattenBehind(r.ID)
	return nil
}

// flattenBehind makes one layer of two wherever no snapshot begins between them, so
// that a container whose snapshots come and go has no more layers than snapshots.
func (e Snapshots) flattenBehind(id string) {
	e.work.Go(func() {
		for {
			if more, err := e.flatten(id); err != nil || !more {
				if err != nil && !errdefs.IsNotFound(err) && e.ctx.Err() == nil {
					e.o.Log.Warn("the layers of a container's snapshots stay apart", "container", id, "error", err)
				}
				return
			}
		}
	})
}

func (e Snapshots) flatten(id string) (more bool, err error) {
	c, unlock, err := e.lockKnown(e.ctx, id)
	if err != nil {
		return false, err
	}
	r := c.latest.Load()
	above, below, ok := apart(r)
	if !ok || r.running() || c.removing || (roots{e.records}).here(r) != nil {
		unlock()
		return false, nil
	}
	release := hold(e.records, c)
	unlock()
	defer release()
	one, done, err := e.o.Layers.Flatten(e.ctx, id, above, below)
	if err != nil || !done {
		return false, err
	}
	if c, unlock, err = e.lockKnown(e.ctx, id); err != nil {
		return false, err
	}
	defer unlock()
	c.untidy.Store(true) // when this is released
	r = c.latest.Load()
	if a, b, ok := apart(r); !ok || a != above || b != below || r.running() {
		return false, nil
	}
	_, err = e.change(c, func(r *record) {
		r.Chain = r.Chain.Replaced(above, below, one)
		r.Snapshots = slices.Clone(r.Snapshots)
		for i, s := range r.Snapshots {
			r.Snapshots[i].Chain = s.Chain.Replaced(above, below, one)
		}
	})
	return err == nil, err
}

// apart finds two saved layers of which no chain has only one.
func apart(r *record) (above, below string, ok bool) {
	chains := []snapshot.Chain{r.Chain.Saved()} // the uppermost is not saved
	for _, s := range r.Snapshots {
		chains = append(chains, s.Chain.All())
	}
	over := map[string]map[string]bool{} // layer to those that lie on it; "" is none
	for _, c := range chains {
		on := "top"
		for _, layer := range c {
			if over[layer] == nil {
				over[layer] = map[string]bool{}
			}
			over[layer][on] = true
			on = "on " + layer
		}
	}
	for _, c := range chains {
		for i := 1; i < len(c); i++ {
			if on := over[c[i]]; len(on) == 1 && on["on "+c[i-1]] {
				return c[i-1], c[i], true
			}
		}
	}
	return "", "", false
}
