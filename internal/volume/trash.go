package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"hezi/internal/disk"
)

const (
	trashBucket = "removed-volumes"
	keptPrefix  = ".trash-"
)

// Bin is the trash of a store.
type Bin struct{ *Store }

// trashed is a removed volume as it is stored: its folder is below keptPrefix+id.
type trashed struct {
	Volume  record
	Removed time.Time
}

// Removed is a volume in the trash.
type Removed struct {
	Name             string
	Removed, Expires time.Time
	Size             int64 // bytes on disk
}

func (s *Store) keptIn(id string) string { return filepath.Join(s.root, keptPrefix+id) }

// SetTrash says for how long what was removed can come back; 0: not at all.
func (s *Store) SetTrash(wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wait = wait
}

// keepLocked moves a volume to the trash; without space for that it is not done.
func (s *Store) keepLocked(v *record) (done bool, err error) {
	var b [8]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	t := trashed{Volume: *v, Removed: time.Now().UTC()}
	if err := os.Mkdir(s.keptIn(id), 0o700); err != nil {
		if disk.IsFull(err) {
			return false, nil
		}
		return false, fmt.Errorf("remove %s: %w", v.Name, err)
	}
	if err := s.db.Put(trashBucket, id, t); err != nil {
		err = errors.Join(err, os.Remove(s.keptIn(id)))
		if disk.IsFull(err) {
			return false, nil
		}
		return false, fmt.Errorf("remove %s: %w", v.Name, err)
	}
	if err := s.moveLocked(v, s.keptIn(id)); err != nil {
		if _, there := os.Lstat(filepath.Join(s.keptIn(id), v.Name)); there == nil { // it could not be moved back
			s.trash[id] = t
			return false, err
		}
		return false, errors.Join(err, s.db.Delete(trashBucket, id))
	}
	s.trash[id] = t
	return true, nil
}

// loadTrash reads what can come back, finishes removals and ends what has no record.
func (s *Store) loadTrash() error {
	err := s.db.Each(trashBucket, func(id string, b []byte) error {
		var t trashed
		if err := json.Unmarshal(b, &t); err != nil {
			return fmt.Errorf("the record of a removed volume: %w", err)
		}
		s.trash[id] = t
		return nil
	})
	if err != nil {
		return err
	}
	for name, v := range s.all {
		t, ok := s.trash[v.Undone]
		if !ok {
			continue
		}
		if _, err := os.Lstat(filepath.Join(s.keptIn(v.Undone), t.Volume.Name)); err == nil {
			if err := s.db.Delete(bucket, name); err != nil {
				return fmt.Errorf("the trash of volumes: %w", err)
			}
			delete(s.all, name)
			delete(s.uses, name)
		}
	}
	for id, t := range s.trash {
		name := t.Volume.Name
		_, err := os.Lstat(filepath.Join(s.keptIn(id), name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the trash of volumes: %w", err)
		}
		v, known := s.all[name]
		if err == nil && known {
			if _, err := os.Lstat(filepath.Dir(v.Mountpoint)); errors.Is(err, fs.ErrNotExist) { // not through
				if err := s.db.Delete(bucket, name); err != nil {
					return fmt.Errorf("finish the removal of the volume %s: %w", name, err)
				}
				delete(s.all, name)
				delete(s.uses, name)
			}
		}
		if err != nil { // it was not begun, or has come back
			if err := s.db.Delete(trashBucket, id); err != nil {
				return fmt.Errorf("the trash of volumes: %w", err)
			}
			delete(s.trash, id)
		}
	}
	dirs, err := filepath.Glob(s.keptIn("*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, ok := s.trash[filepath.Base(dir)[len(keptPrefix):]]; !ok {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove what a volume held: %w", err)
			}
		}
	}
	return nil
}

// inTrash are the ids of what can come back, the latest first; a name leaves
// others out, "" none.
func (s *Store) inTrashLocked(name string) []string {
	ids := slices.Collect(maps.Keys(s.trash))
	ids = slices.DeleteFunc(ids, func(id string) bool { return name != "" && s.trash[id].Volume.Name != name })
	slices.SortFunc(ids, func(a, b string) int { return s.trash[b].Removed.Compare(s.trash[a].Removed) })
	return ids
}

// Trash lists what can come back, the latest first.
func (s Bin) Trash(ctx context.Context) ([]Removed, error) {
	s.mu.Lock()
	ids, wait := s.inTrashLocked(""), s.wait
	list := make([]Removed, len(ids))
	for i, id := range ids {
		t := s.trash[id]
		list[i] = Removed{Name: t.Volume.Name, Removed: t.Removed, Expires: t.Removed.Add(wait)}
	}
	s.mu.Unlock()
	for i, id := range ids {
		n, err := disk.Usage(ctx, s.keptIn(id))
		if err != nil {
			return nil, fmt.Errorf("the trash of volumes: %w", err)
		}
		list[i].Size = n
	}
	return list, nil
}

// Undo brings a removed volume back, the latest of its name, by that or another
// name. Errors: NotFound, Conflict for a name that is there.
func (s Bin) Undo(_ context.Context, name, as string) (volume.Volume, error) {
	if as == "" {
		as = name
	}
	if err := s.checkName("undo", as); err != nil {
		return volume.Volume{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := s.inTrashLocked(name)
	if name == "" || len(ids) == 0 {
		return volume.Volume{}, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("undo %s: no removed volume of that name is kept: hezi volume trash lists those that are", name))
	}
	if _, ok := s.all[as]; ok {
		return volume.Volume{}, errdefs.ErrConflict.WithMessage(fmt.Sprintf("undo %s: there is a volume %s: name another (--as), or remove or rename that", name, as))
	}
	id := ids[0]
	v := s.trash[id].Volume
	v.Name, v.Mountpoint, v.Undone = as, s.dataOf(as), id
	from, to := filepath.Join(s.keptIn(id), name), filepath.Join(s.root, as)
	failed := func(err error) (volume.Volume, error) {
		return volume.Volume{}, fmt.Errorf("undo %s: %w", name, err)
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return failed(errors.Join(err, errdefs.ErrConflict.WithMessage("there is a folder "+to+" of no volume: move it away")))
	}
	// Where this is interrupted, the next Open finds the folder in the trash still, and
	// forgets the record.
	if err := s.db.Put(bucket, as, v); err != nil {
		return failed(err)
	}
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed(errors.Join(err, s.db.Delete(bucket, as)))
	}
	s.all[as], s.uses[as] = v, newUse()
	delete(s.trash, id)
	err := errors.Join(syncFolder(s.root), s.db.Delete(trashBucket, id), os.Remove(s.keptIn(id)))
	if err != nil {
		s.log.Warn("a removed volume is back, but its place in the trash is left until the next start", "volume", as, "error", err)
	}
	s.tell("create", as, driver())
	return v.shown(), nil
}

// EmptyTrash removes for good what can come back: of a name, or all with "". It
// says how many bytes that frees.
func (s Bin) EmptyTrash(ctx context.Context, name string) (freed int64, err error) {
	s.mu.Lock()
	ids := s.inTrashLocked(name)
	s.mu.Unlock()
	if name != "" && len(ids) == 0 {
		return 0, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("trash %s: no removed volume of that name is kept", name))
	}
	return s.end(ctx, ids, 1<<62)
}

// Evict removes for good what was removed first, until so many bytes are freed.
func (s Bin) Evict(ctx context.Context, need int64) (freed int64, err error) {
	s.mu.Lock()
	ids := s.inTrashLocked("")
	s.mu.Unlock()
	slices.Reverse(ids)
	freed, err = s.end(ctx, ids, need)
	if freed > 0 {
		s.log.Warn("removed volumes were given up: their space is needed", "bytes", freed)
	}
	return freed, err
}

func (s Bin) end(ctx context.Context, ids []string, need int64) (freed int64, err error) {
	for _, id := range ids {
		if freed >= need || ctx.Err() != nil {
			break
		}
		n, uerr := disk.Usage(ctx, s.keptIn(id))
		s.mu.Lock()
		t, ok := s.trash[id]
		delete(s.trash, id)
		s.mu.Unlock()
		if !ok {
			continue // somebody took it
		}
		// The folder first: a record without one is forgotten by the next Open. It leaves
		// the trash whole, so that no half of it ever comes back.
		gone := filepath.Join(s.root, trashPrefix+id)
		if derr := os.Rename(s.keptIn(id), gone); derr != nil && !errors.Is(derr, fs.ErrNotExist) {
			s.mu.Lock()
			s.trash[id] = t
			s.mu.Unlock()
			err = errors.Join(err, uerr, fmt.Errorf("the trash of volumes: %s: %w", t.Volume.Name, derr))
			continue
		}
		if derr := errors.Join(syncFolder(s.root), s.db.Delete(trashBucket, id), s.removeAll(gone, t.Volume.Name)); derr != nil {
			err = errors.Join(err, uerr, fmt.Errorf("the trash of volumes: %s: what is left is removed at the next start: %w", t.Volume.Name, derr))
			continue
		}
		freed += n
	}
	return freed, err
}

// expire removes for good what has waited long enough.
func (s Bin) expire(ctx context.Context, now time.Time) {
	s.mu.Lock()
	ids := s.inTrashLocked("")
	ids = slices.DeleteFunc(ids, func(id string) bool { return now.Sub(s.trash[id].Removed) < s.wait })
	s.mu.Unlock()
	if _, err := s.end(ctx, ids, 1<<62); err != nil {
		s.log.Warn("removed volumes could not be given up", "error", err)
	}
}

// KeepTrash gives up what has waited long enough, until ctx ends.
func (s Bin) KeepTrash(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		s.expire(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
