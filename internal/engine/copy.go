package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/engine/cp"
	"hezi/internal/snapshot"
)

// within is a container's file system, opened for a copy.
type within struct {
	cp.Tree
	r     *record
	in    *box.Inside
	users *box.Users // as whose root files are made; nil: as ours
	done  func()
}

func (w *within) close() {
	w.in.Close()
	w.done()
}

// within opens a container's file system with all that is mounted in it: that of
// the container itself while it runs, else what a start would mount, without what
// lives in memory. To be written to, one that is stopped stays locked until close:
// two mounts must not write to one layer.
func (e *Files) within(ctx context.Context, ref string, write bool) (*within, error) {
	for tries := 1; ; tries++ {
		w, over, err := e.open(ctx, ref, write)
		if over == nil || tries == 3 {
			return w, err
		}
		// It has ended, which the engine is told in a moment.
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		late := e.awaitEnd(wait, over)
		cancel()
		if late != nil {
			return nil, err
		}
	}
}

// open is within. over is not nil where it failed as the container had just ended, and
// is closed when the engine knows that.
func (e *Files) open(ctx context.Context, ref string, write bool) (_ *within, over <-chan struct{}, err error) {
	c, unlock, err := e.lock(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	r := c.latest.Load()
	w := &within{r: r, done: unlock}
	if c.removing {
		unlock()
		return nil, nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot copy: container %s is being removed", r.ID))
	}
	if r.running() {
		w.in, err = box.Enter(r.PID, e.o.Layers.Place(r.ID, r.Chain))
		if err == nil {
			w.done = hold(e.records, c)
			unlock()
			if r.Users != nil {
				w.users, w.IDs = r.Users, user.IdentityMapping{UIDMaps: idMaps(r.Users.UIDs), GIDMaps: idMaps(r.Users.GIDs)}
			}
		} else if errors.Is(err, os.ErrNotExist) {
			over, err = c.over, errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s has ended just now: copy again", r.ID))
		}
	} else {
		var scratch string
		w.in, scratch, err = e.assemble(ctx, r, write)
		if err == nil && !write {
			w.done = hold(e.records, c)
			unlock()
		}
		if done := w.done; scratch != "" {
			w.done = func() { os.RemoveAll(scratch); done() }
		}
	}
	if err != nil {
		unlock()
		return nil, over, err
	}
	w.Root = w.in.Root
	w.Do = func(f func() error) error { return w.in.Do(w.users, f) }
	return w, nil, nil
}

func idMaps(list []box.IDMap) (out []user.IDMap) {
	for _, m := range list {
		out = append(out, user.IDMap{ID: int64(m.Container), ParentID: int64(m.Host), Count: int64(m.Size)})
	}
	return out
}

// assemble mounts a stopped container's layers, and what is on disk of its mounts.
// A root that is not written to gets the mount points that no start has made yet in
// a folder, scratch, which is removed when all is closed.
func (e *Files) assemble(ctx context.Context, r *record, write bool) (in *box.Inside, scratch string, err error) {
	defer func() { e.o.Volumes.Unmount(r.ID, r.volumes()) }() // what is assembled holds them itself
	all, err := launcher{e.records}.mounts(ctx, r)
	if err != nil {
		return nil, "", err
	}
	mounts := slices.DeleteFunc(all, func(m box.Mount) bool { return m.Type != box.MountBind && m.Type != box.MountImage })
	for i := range mounts {
		m := &mounts[i]
		if m.Owners != nil && r.Users == nil {
			return nil, "", errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("container %s maps the owners of the files at %s, which only happens while it runs: start it, then copy", r.ID, m.Target))
		}
		m.Owners, m.Propagation = nil, "rprivate" // the ids on disk are the container's
	}
	readOnly := !write || r.HostConfig.ReadonlyRootfs
	v, err := roots{e.records}.look(ctx, r, readOnly)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, v.Done()) }()
	if o := v.Overlay; o != nil {
		o.Label = r.Labels.Files
		if readOnly {
			// Not in the container's folder, whose space may be limited and used up.
			if scratch, err = os.MkdirTemp(filepath.Dir(e.o.Layers.Base()), snapshot.ScratchPrefix); err != nil {
				return nil, "", err
			}
			o.Upper, o.Work = filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
			var root unix.Stat_t // what / is seen as
			err = errors.Join(unix.Stat(o.Lower[0], &root), os.Mkdir(o.Upper, 0o700), os.Mkdir(o.Work, 0o700),
				unix.Chown(o.Upper, int(root.Uid), int(root.Gid)), unix.Chmod(o.Upper, root.Mode&0o7777))
		}
	}
	if err == nil {
		in, err = box.Assemble(&v.Root, mounts, readOnly)
	}
	if err != nil && scratch != "" {
		os.RemoveAll(scratch)
		scratch = ""
	}
	return in, scratch, err
}

// StatPath tells about a path in a container. Errors: NotFound, InvalidArgument.
func (e *Files) StatPath(ctx context.Context, ref, p string) (container.PathStat, error) {
	w, err := e.within(ctx, ref, false)
	if err != nil {
		return container.PathStat{}, err
	}
	defer w.close()
	st, err := w.Stat(p)
	return st, cp.Explain(ref, p, err)
}

// Archive is what is at a path in a container, opened to be copied.
type Archive struct {
	*cp.Source
	w *within
}

// Close lets it go.
func (a *Archive) Close() error {
	err := a.Source.Close()
	a.w.close()
	return err
}

// ArchivePath opens what is at a path in a container, running or not.
func (e *Files) ArchivePath(ctx context.Context, ref, p string) (*Archive, error) {
	w, err := e.within(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	s, err := w.Open(p)
	if err != nil {
		w.close()
		return nil, cp.Explain(ref, p, err)
	}
	e.publish(w.r, events.ActionArchivePath)
	return &Archive{Source: s, w: w}, nil
}

// ExtractOptions of PUT /containers/{id}/archive.
type ExtractOptions struct {
	Overwrite bool // a directory may become something else, and the other way round
	Owned     bool // all belongs to the container's user
}

// Extract unpacks an archive into a directory in a container, running or not.
// Errors: NotFound, InvalidArgument for what is no directory or no archive, or
// cannot be written to.
func (e *Files) Extract(ctx context.Context, ref, p string, body io.Reader, o ExtractOptions) error {
	w, err := e.within(ctx, ref, true)
	if err != nil {
		return err
	}
	defer w.close()
	options := cp.Options{Overwrite: o.Overwrite}
	if name := w.r.Config.User; o.Owned && name != "" {
		who, err := box.Identify(fmt.Sprintf("/proc/self/fd/%d", w.Root.Fd()), &box.Process{User: name})
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		options.Owner = &[2]int{who.UID, who.GID}
		if !w.IDs.Empty() {
			uid, gid, err := w.IDs.ToHost(who.UID, who.GID)
			if err != nil {
				return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the container's user %s has no id on the host: %v", name, err))
			}
			options.Owner = &[2]int{uid, gid}
		}
	}
	err = w.Tree.Extract(ctx, p, body, options)
	if errors.Is(err, cp.ErrReadOnly) {
		return readOnly(w.r, p)
	}
	if err != nil {
		return cp.Explain(ref, p, err)
	}
	e.publish(w.r, events.ActionExtractToDir)
	return nil
}

// readOnly says why nothing can be written to a path, in Docker's words.
func readOnly(r *record, p string) error {
	for _, point := range r.Points {
		if point.Type != mount.TypeTmpfs && (path.Clean(p) == point.Target || strings.HasPrefix(path.Clean("/"+p)+"/", point.Target+"/")) {
			return errdefs.ErrInvalidArgument.WithMessage("mounted volume is marked read-only: nothing can be copied to " + p)
		}
	}
	if r.HostConfig.ReadonlyRootfs {
		return errdefs.ErrInvalidArgument.WithMessage("container rootfs is marked read-only: nothing can be copied to " + p)
	}
	return errdefs.ErrInvalidArgument.WithMessage("the file system at " + p + " is read-only in the container: nothing can be copied there")
}
