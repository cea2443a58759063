package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"hezi/internal/box"
	"hezi/internal/engine/spec"
)

// Mounts changes what is mounted in containers.
type Mounts struct{ *Engine }

// Change takes mounts of a container away and adds others, at once while it runs, and
// for good. remove are places in the container; a place that is among both gets another
// mount. Volumes that are added to a container that runs are not filled from the
// image. Errors: NotFound, InvalidArgument, Conflict; then nothing has changed.
func (e Mounts) Change(ctx context.Context, ref string, add []mount.Mount, remove []string) (err error) {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if c.removing {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot change the mounts of container %s: it is being removed", ref))
	}
	old := c.latest.Load()
	next, gone, err := remounted(old, add, remove)
	if err != nil {
		return err
	}
	l := live{Mounts: e, r: old}
	if old.running() {
		if err := l.enter(); err != nil {
			return err
		}
		defer l.close() // after what undoes
	}
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	fresh := *next // what is added alone
	fresh.Points, fresh.Anonymous = next.Points[len(old.Points)-len(gone):], nil
	if err = checkPoints(fresh.Points); err != nil {
		return err
	}
	if err = e.makePoints(ctx, &fresh, &undo); err != nil {
		return err
	}
	next.Anonymous = slices.Concat(old.Anonymous, fresh.Anonymous)
	if old.running() {
		if _, err = e.change(c, func(r *record) {
			r.Changing = &remounting{Run: r.Started, Added: fresh.Points, Anonymous: fresh.Anonymous, Gone: gone}
		}); err != nil {
			return err
		}
		undo = slices.Insert(undo, 0, func() error { // when the mounts are as they were
			_, err := e.change(c, func(r *record) { r.Changing = nil })
			return err
		})
		if err = l.remount(ctx, &fresh, gone, &undo); err != nil {
			return err
		}
	}
	if _, err = e.change(c, func(r *record) {
		r.HostConfig, r.Points, r.Anonymous, r.Changing = next.HostConfig, next.Points, next.Anonymous, nil
	}); err != nil {
		return err
	}
	e.letGo(context.WithoutCancel(ctx), next, gone)
	e.publish(next, events.ActionUpdate)
	return nil
}

// remounting is a change of the mounts of a container that runs which is not through: the
// record has the mounts before it. An engine that finds it takes the change back.
type remounting struct {
	Run       time.Time // when that run of the container was started
	Added     []spec.Point
	Anonymous []string // volumes that were made for those
	Gone      []spec.Point
}

// takeBack has a container that runs mount what its record says, after an engine that
// died while it changed that.
func (e Mounts) takeBack(ctx context.Context, c *entry) (err error) {
	r := c.latest.Load()
	half := r.Changing
	if half == nil {
		return nil
	}
	if r.running() && half.Run.Equal(r.Started) {
		l := live{Mounts: e, r: r}
		if err := l.enter(); err != nil {
			return err
		}
		err = l.takeBack(ctx, half)
		l.close()
		if err != nil {
			return err
		}
	}
	r, err = e.change(c, func(r *record) { r.Changing = nil })
	if err != nil {
		return err
	}
	e.letGo(ctx, r, half.Added)
	for _, name := range half.Anonymous {
		if err := e.o.Volumes.Remove(ctx, name, true); err != nil {
			e.o.Log.Warn("a volume is left that was made for a mount which was not added", "container", r.ID, "volume", name, "error", err)
		}
	}
	return nil
}

// takeBack does it in the container. What is there may be of before or after the change.
func (l *live) takeBack(ctx context.Context, half *remounting) error {
	was := func(target string) *spec.Point {
		for i := range half.Gone {
			if half.Gone[i].Target == target {
				return &half.Gone[i]
			}
		}
		return nil
	}
	for _, p := range slices.Backward(half.Added) {
		source := l.shown(ctx, p)
		if old := was(p.Target); old != nil {
			if same, err := l.in.Shows(p.Target, l.shown(ctx, *old)); err == nil && same {
				continue // it was not taken away yet
			}
		} else if source != "" {
			if same, err := l.in.Shows(p.Target, source); err == nil && !same {
				continue // it is the container's own
			}
		}
		if err := l.in.Detach(p.Target, source); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, p := range half.Gone {
		if _, err := l.in.Shows(p.Target, ""); err == nil {
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := l.attach(ctx, l.r, p); err != nil {
			return err
		}
	}
	return nil
}

// remounted is a record with other mounts, those that are added last, and what it has no more.
func remounted(old *record, add []mount.Mount, remove []string) (next *record, gone []spec.Point, err error) {
	added, err := spec.Points(&container.Config{}, &container.HostConfig{Mounts: add}, nil, false)
	if err != nil {
		return nil, nil, err
	}
	r, host := *old, *old.HostConfig
	r.HostConfig, r.Points = &host, slices.Clone(old.Points)
	for _, place := range remove {
		at, err := spec.Target(place)
		if err != nil {
			return nil, nil, err
		}
		i := slices.IndexFunc(r.Points, func(p spec.Point) bool { return p.Target == at })
		if i < 0 {
			return nil, nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("container %s has no mount at %s that it was asked for: hezi inspect -f '{{json .Mounts}}' %s lists them", old.Name, place, old.Name))
		}
		gone = append(gone, r.Points[i])
		r.Points = slices.Delete(r.Points, i, i+1)
		host.Mounts = slices.DeleteFunc(slices.Clone(host.Mounts), func(m mount.Mount) bool { return samePlace(m.Target, at) })
		host.Binds = slices.DeleteFunc(slices.Clone(host.Binds), func(b string) bool {
			p, err := spec.Points(&container.Config{}, &container.HostConfig{Binds: []string{b}}, nil, false)
			return err == nil && p[0].Target == at
		})
		tmpfs := map[string]string{}
		for t, data := range host.Tmpfs {
			if !samePlace(t, at) {
				tmpfs[t] = data
			}
		}
		if len(tmpfs) < len(host.Tmpfs) {
			host.Tmpfs = tmpfs
		}
	}
	for _, p := range added {
		if slices.ContainsFunc(r.Points, func(o spec.Point) bool { return o.Target == p.Target }) {
			return nil, nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("Duplicate mount point: %s: container %s has a mount there: add --mount-rm %s", p.Target, old.Name, p.Target))
		}
		p.NoCopy = p.NoCopy || old.running()
		r.Points = append(r.Points, p)
	}
	host.Mounts = slices.Concat(host.Mounts, add)
	return &r, gone, nil
}

func samePlace(a, at string) bool {
	t, err := spec.Target(a)
	return err == nil && t == at
}

// live is a container that runs, entered.
type live struct {
	Mounts
	r      *record
	in     *box.Inside
	userns *os.File // its own user namespace, or nil
}

func (l *live) enter() (err error) {
	if l.r.Users != nil {
		if l.userns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", l.r.PID)); err != nil {
			return endedJustNow(l.r)
		}
	}
	l.in, err = box.Enter(l.r.PID, l.o.Layers.Place(l.r.ID, l.r.Chain)) // is sure that the process is the container's
	if err == nil {
		return nil
	}
	if l.userns != nil {
		l.userns.Close()
	}
	if errors.Is(err, os.ErrNotExist) {
		err = endedJustNow(l.r)
	}
	return err
}

func (l *live) close() {
	l.in.Close()
	if l.userns != nil {
		l.userns.Close()
	}
}

func (l *live) attach(ctx context.Context, like *record, p spec.Point) error {
	one := *like
	one.Points = []spec.Point{p}
	list, err := launcher{l.records}.mounts(ctx, &one)
	if err != nil {
		return err
	}
	return l.in.Attach(list, l.r.Users, l.userns, l.r.Labels.Files)
}

// remount does in the container what its record will say. undo gets what takes
// that back.
func (l *live) remount(ctx context.Context, fresh *record, gone []spec.Point, undo *[]func() error) error {
	undoing := context.WithoutCancel(ctx)
	for _, p := range gone {
		if err := l.in.Detach(p.Target, l.shown(ctx, p)); err != nil && !errors.Is(err, os.ErrNotExist) { // the container may have
			return errdefs.ErrConflict.WithMessage(err.Error())
		}
		*undo = append(*undo, func() error { return l.attach(undoing, l.r, p) })
	}
	for _, p := range fresh.Points {
		if p.Type == mount.TypeVolume && !slices.Contains(l.r.volumes(), p.Source) {
			*undo = append(*undo, func() error { l.o.Volumes.Unmount(l.r.ID, []string{p.Source}); return nil })
		}
		if err := l.attach(ctx, fresh, p); err != nil {
			return cannotMount(l.r, err)
		}
		*undo = append(*undo, func() error { return l.in.Detach(p.Target, l.shown(undoing, p)) })
	}
	return nil
}

func endedJustNow(r *record) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s has ended just now, or its runtime keeps its mounts to itself: try again", r.Name))
}

// shown is the host's path that a mount shows, if it has one.
func (e Mounts) shown(ctx context.Context, p spec.Point) string {
	switch p.Type {
	case mount.TypeBind:
		return p.Source
	case mount.TypeVolume:
		if v, err := e.o.Volumes.Get(ctx, p.Source); err == nil && p.Subpath == "" {
			return v.Mountpoint
		}
	}
	return ""
}

// letGo gives back what mounts that are gone had of other rooms. What fails is done at
// the container's end.
func (e Mounts) letGo(ctx context.Context, r *record, gone []spec.Point) {
	kept := r.volumes()
	for i := range gone {
		p := &gone[i]
		switch p.Type {
		case mount.TypeVolume:
			if !slices.Contains(kept, p.Source) {
				e.o.Volumes.Unmount(r.ID, []string{p.Source})
			}
		case mount.TypeImage:
			if slices.ContainsFunc(r.Points, func(o spec.Point) bool { return o.Type == mount.TypeImage && o.Target == p.Target }) {
				continue // another, with the same hold
			}
			if err := e.o.Images.Unpin(ctx, imageHold(r, p)); err != nil {
				e.o.Log.Warn("an image stays held by a mount that is gone", "container", r.ID, "image", p.Source, "error", err)
			}
		}
	}
}

func cannotMount(r *record, err error) error {
	var b *box.Error
	if !errors.As(err, &b) {
		return err
	}
	text := fmt.Sprintf("cannot add a mount to container %s: %s", r.Name, b.Message)
	if strings.Contains(b.Message, "read-only file system") {
		text += ": its root is read-only (--read-only): a place that is there already can be used"
	}
	return errdefs.ErrInvalidArgument.WithMessage(text)
}
