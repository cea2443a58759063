package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"

	"hezi/internal/box/copytree"
	"hezi/internal/disk"
	"hezi/internal/disk/loop"
)

const (
	newPrefix    = ".new-"
	newMark      = ".new" // beside what a folder holds that has no record yet
	snapshotsDir = "snapshots"
)

// States copies what the volumes of a store hold, and keeps it.
type States struct{ *Store }

// Snapshot is a state of a volume that was kept.
type Snapshot struct {
	Name    string
	Created time.Time
}

// SetFreeze wires who freezes the containers that use a volume, and thaws them.
func (s *Store) SetFreeze(f func(ctx context.Context, name string) (thaw func(), err error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freeze = f
}

// Content opens what a volume holds, to be read; pause has the containers that run
// with it frozen until done is called. No device can be opened below it: what a
// container leaves there is only copied. Errors: NotFound, FailedPrecondition.
func (s States) Content(ctx context.Context, name string, pause bool) (dir *os.File, done func(), err error) {
	by := fmt.Sprintf("a copy that is being made (%d)", s.serial.Add(1))
	r, err := s.begin(ctx, name, by)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	freeze, u := s.freeze, s.uses[name]
	s.mu.Unlock()
	end := func() {
		u.forget(by)
		if r.mounts() {
			go s.settle(u, r)
		}
	}
	if pause && freeze != nil {
		thaw, err := freeze(ctx, name)
		if err != nil {
			end()
			return nil, nil, err
		}
		before := end
		end = func() { thaw(); before() }
	}
	if dir, err = harmless(r.Mountpoint); err != nil {
		end()
		return nil, nil, fmt.Errorf("open the volume %s: %w", name, err)
	}
	return dir, func() { dir.Close(); end() }, nil
}

// harmless opens a folder by a mount of its own, which has no devices.
func harmless(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}); err != nil {
		return nil, &os.PathError{Op: "mount", Path: path, Err: err}
	}
	in, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(in), path), nil
}

// copyInto copies what one folder holds into another, which is empty, and waits
// until it is on the disk.
func copyInto(ctx context.Context, from *os.File, path string) error {
	to, err := harmless(path)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := copytree.Apart(func() error { return copytree.Copy(ctx, int(from.Fd()), int(to.Fd())) }); err != nil {
		return err
	}
	return unix.Syncfs(int(to.Fd()))
}

// Fill makes a volume whose content fill writes: it is there when that is done, or
// not at all. Error: Conflict for a name that is there.
func (s *Store) Fill(ctx context.Context, q volume.CreateRequest, fill func(path string) error) (_ volume.Volume, err error) {
	if err := s.check(&q); err != nil {
		return volume.Volume{}, err
	}
	r := s.newRecord(&q)
	failed := func(err error) (volume.Volume, error) {
		return volume.Volume{}, fmt.Errorf("create %s: %w", q.Name, err)
	}
	if r.mounts() {
		return failed(errdefs.ErrInvalidArgument.WithMessage("a volume that is a mount of something else cannot be filled: leave out type and device"))
	}
	if err := s.vacant(q.Name); err != nil {
		return volume.Volume{}, err
	}
	dir, err := os.MkdirTemp(s.root, newPrefix)
	if err != nil {
		return failed(err)
	}
	defer func() {
		if rerr := s.removeAll(dir, q.Name); rerr != nil {
			s.log.Warn("a volume that was not made is removed at the next start of hezid", "folder", dir, "error", rerr)
		}
	}()
	data := filepath.Join(dir, q.Name, "_data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return failed(err)
	}
	if err := s.limit(&r, data); err != nil {
		return failed(err)
	}
	if err := filled(&r, data, fill); err != nil {
		return failed(err)
	}
	mark := filepath.Join(filepath.Dir(data), newMark)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.vacantLocked(q.Name); err != nil {
		return volume.Volume{}, err
	}
	folder := filepath.Join(s.root, q.Name)
	if err := os.Rename(filepath.Dir(data), folder); err != nil {
		return failed(err)
	}
	err = syncFolder(s.root)
	if err == nil {
		err = s.db.Put(bucket, q.Name, r)
	}
	if err != nil {
		return failed(errors.Join(err, os.Rename(folder, filepath.Dir(data))))
	}
	if err := os.Remove(filepath.Join(folder, newMark)); err != nil {
		s.log.Warn("a file that means nothing any more stays with a volume", "volume", q.Name, "error", err)
	}
	s.all[q.Name], s.uses[q.Name] = r, newUse()
	s.tell("create", q.Name, driver())
	return r.shown(), nil
}

// filled has fill write into a new volume.
func filled(r *record, data string, fill func(path string) error) (err error) {
	if r.Limit != byFile {
		return fill(data)
	}
	if err := mountDisk(data); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.Unmount(data)) }()
	return fill(data)
}

// refill gives a volume that is a disk another one, which is made in dir.
func refill(ctx context.Context, r *record, from *os.File, dir string) error {
	n, err := size(r.Options)
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "_data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	if err := makeDisk(n, data); err != nil {
		return err
	}
	if err := filled(r, data, func(path string) error { return copyInto(ctx, from, path) }); err != nil {
		return err
	}
	home := filepath.Dir(r.Mountpoint)
	before, disk := loop.File(home), loop.File(dir)
	after := filepath.Join(home, filepath.Base(disk))
	if err := os.Rename(disk, after); err != nil {
		return err
	}
	if before != "" && before != after { // of another mkfs
		if err := os.Remove(before); err != nil {
			return err
		}
	}
	return syncFolder(home)
}

// forgetUnmade removes folders that got their names, but no records before a former
// engine ended.
func forgetUnmade(s *Store) error {
	marks, err := filepath.Glob(filepath.Join(s.root, "*", newMark))
	if err != nil {
		return err
	}
	for _, mark := range marks {
		dir := filepath.Dir(mark)
		if _, known := s.all[filepath.Base(dir)]; known {
			err = os.Remove(mark)
		} else {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			return fmt.Errorf("remove a volume that was not made: %w", err)
		}
	}
	return nil
}

// recoverRestored puts volumes right whose restore was cut off.
func recoverRestored(s *Store) error {
	for name, r := range s.all {
		if r.foreign() {
			continue
		}
		if err := disk.Recover(r.Mountpoint); err != nil {
			return fmt.Errorf("put the volume %s right, whose restore was cut off: %w", name, err)
		}
	}
	return nil
}

func (s *Store) vacant(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vacantLocked(name)
}

func (s *Store) vacantLocked(name string) error {
	if _, ok := s.all[name]; ok {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("create %s: there is a volume of that name: name another, or remove that", name))
	}
	if _, err := os.Lstat(filepath.Join(s.root, name)); err == nil {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("create %s: there is a folder %s of no volume: move it away", name, filepath.Join(s.root, name)))
	}
	return nil
}

// Clone makes a volume with what another holds now, its labels and its limit of size;
// blocks are shared where the file system can.
func (s States) Clone(ctx context.Context, name, to string, pause bool) (volume.Volume, error) {
	v, err := s.Get(ctx, name)
	if err != nil {
		return volume.Volume{}, err
	}
	labels := maps.Clone(v.Labels)
	delete(labels, anonymousLabel)
	if to == "" {
		return volume.Volume{}, errdefs.ErrInvalidArgument.WithMessage("clone " + name + ": the clone needs a name")
	}
	q := volume.CreateRequest{Name: to, Labels: labels}
	if size, ok := v.Options["size"]; ok {
		q.DriverOpts = map[string]string{"size": size}
	}
	return s.Fill(ctx, q, func(path string) error {
		from, done, err := s.Content(ctx, name, pause)
		if err != nil {
			return err
		}
		defer done()
		return copyInto(ctx, from, path)
	})
}

// own is a volume whose content lies in its folder, or in a disk there.
func (s States) own(verb, name string) (record, *use, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	if !ok {
		return r, nil, unknown(name)
	}
	if r.foreign() {
		return r, nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s %s: it is a mount of %s: keep its states there, or clone it", verb, name, r.Options["device"]))
	}
	return r, s.uses[name], nil
}

func (s *Store) snapshotPath(volume, snapshot string) string {
	return filepath.Join(s.root, volume, snapshotsDir, snapshot)
}

// Snapshot keeps what a volume holds now. Without a name it gets the time as one.
func (s States) Snapshot(ctx context.Context, name, as string, pause bool) (Snapshot, error) {
	now := Snapshot{Name: as, Created: time.Now().UTC()}
	if as == "" {
		now.Name = now.Created.Format("20060102T150405.000Z")
	}
	if err := s.checkName("snapshot", now.Name); err != nil {
		return now, err
	}
	if _, _, err := s.own("snapshot", name); err != nil {
		return now, err
	}
	failed := func(err error) (Snapshot, error) { return now, fmt.Errorf("snapshot %s: %w", name, err) }
	from, done, err := s.Content(ctx, name, pause)
	if err != nil {
		return now, err
	}
	defer done()
	parent := s.snapshotPath(name, "")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return failed(err)
	}
	dir, err := os.MkdirTemp(parent, newPrefix)
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir)
	if err := copyInto(ctx, from, dir); err != nil {
		return failed(err)
	}
	err = s.amend(name, func(r *record) error {
		if r.snapshot(now.Name) >= 0 {
			return errdefs.ErrConflict.WithMessage(fmt.Sprintf("snapshot %s: there is a snapshot %s: name another, or remove that", name, now.Name))
		}
		r.Snapshots = append(slices.Clone(r.Snapshots), now)
		at := s.snapshotPath(name, now.Name)
		if err := os.RemoveAll(at); err != nil { // of one that was not through
			return err
		}
		return errors.Join(os.Rename(dir, at), syncFolder(parent))
	})
	return now, err
}

// snapshot finds one by its name; -1: there is none.
func (r *record) snapshot(name string) int {
	return slices.IndexFunc(r.Snapshots, func(x Snapshot) bool { return x.Name == name })
}

func (r *record) noSnapshot(name string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("volume %s has no snapshot %s: hezi volume snapshots %s lists those that there are", r.Name, name, r.Name))
}

// amend changes a volume's record: stored, then seen.
func (s *Store) amend(name string, f func(r *record) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	if !ok {
		return unknown(name)
	}
	if err := f(&r); err != nil {
		return err
	}
	if err := s.db.Put(bucket, name, r); err != nil {
		return fmt.Errorf("store the volume %s: %w", name, err)
	}
	s.all[name] = r
	return nil
}

// Snapshots lists the states of a volume that were kept, the oldest first.
func (s States) Snapshots(_ context.Context, name string) ([]Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	if !ok {
		return nil, unknown(name)
	}
	return append([]Snapshot{}, r.Snapshots...), nil
}

// RemoveSnapshot forgets a state.
func (s States) RemoveSnapshot(_ context.Context, name, snapshot string) error {
	_, u, err := s.own("remove a snapshot of", name)
	if err != nil {
		return err
	}
	u.work.Lock() // it may be being restored
	defer u.work.Unlock()
	err = s.amend(name, func(r *record) error {
		i := r.snapshot(snapshot)
		if i < 0 {
			return r.noSnapshot(snapshot)
		}
		r.Snapshots = slices.Delete(slices.Clone(r.Snapshots), i, i+1)
		return nil
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(s.snapshotPath(name, snapshot))
}

// RestoreSnapshot gives a volume what it held when a snapshot was made, which stays.
// Errors: NotFound; Conflict while a container runs with it.
func (s States) RestoreSnapshot(ctx context.Context, name, snapshot string) (err error) {
	_, u, err := s.own("restore", name)
	if err != nil {
		return err
	}
	u.work.Lock()
	defer u.work.Unlock()
	r, now, err := s.own("restore", name)
	switch {
	case err != nil:
		return err
	case now != u:
		return unknown(name)
	case r.snapshot(snapshot) < 0:
		return r.noSnapshot(snapshot)
	}
	failed := func(err error) error { return fmt.Errorf("restore %s: %w", name, err) }
	if err := u.closeLocked(&r, errdefs.ErrConflict.WithMessage("volume "+name+" is being restored")); err != nil {
		return failed(err)
	}
	defer u.open()
	from, err := harmless(s.snapshotPath(name, snapshot))
	if err != nil {
		return failed(err)
	}
	defer from.Close()
	dir, err := os.MkdirTemp(s.snapshotPath(name, ""), newPrefix)
	if err != nil {
		return failed(err)
	}
	remove := func() error { return os.RemoveAll(dir) }
	defer func() { err = errors.Join(err, remove()) }() // with what the volume held until now
	if r.Limit == byFile {
		if err := refill(ctx, &r, from, dir); err != nil {
			return failed(err)
		}
		return nil
	}
	if r.Limit == byProject {
		n, err := size(r.Options)
		if err == nil {
			err = s.limiter.Limit(n, dir)
		}
		if err != nil {
			return failed(err)
		}
		remove = func() error { return s.limiter.Remove(dir, dir) }
	}
	if err := copyInto(ctx, from, dir); err != nil {
		return failed(err)
	}
	if err := disk.Exchange(dir, r.Mountpoint); err != nil {
		return failed(err)
	}
	return syncFolder(filepath.Dir(r.Mountpoint))
}
