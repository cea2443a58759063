package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
)

// Protect has removals and prunes refuse a volume, or lets them have it again.
func (s States) Protect(_ context.Context, name string, on bool) error {
	return s.amend(name, func(r *record) error { r.Protected = on; return nil })
}

// Rename gives a volume that no container has another name. Errors: NotFound,
// Conflict.
func (s States) Rename(_ context.Context, name, to string) (volume.Volume, error) {
	if err := s.checkName("rename", to); err != nil {
		return volume.Volume{}, err
	}
	s.mu.Lock()
	u := s.uses[name]
	s.mu.Unlock()
	if u == nil {
		return volume.Volume{}, unknown(name)
	}
	u.work.Lock()
	defer u.work.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	if !ok || s.uses[name] != u {
		return volume.Volume{}, unknown(name)
	}
	if err := s.vacantLocked(to); err != nil {
		return volume.Volume{}, err
	}
	if ids := s.inUse(name); len(ids) > 0 {
		return volume.Volume{}, errdefs.ErrConflict.WithMessage(fmt.Sprintf("rename %s: volume is in use - [%s]: containers know it by its name: remove them first, and make them anew with the new one", name, strings.Join(ids, ", ")))
	}
	if err := u.closeLocked(&r, unknown(name)); err != nil {
		return volume.Volume{}, fmt.Errorf("rename %s: %w", name, err)
	}
	r.Name, r.Mountpoint, r.RenamedFrom = to, s.dataOf(to), name
	if r.anonymous() { // it has a name now
		labels := map[string]string{}
		for k, v := range r.Labels {
			if k != anonymousLabel {
				labels[k] = v
			}
		}
		r.Labels = labels
	}
	if err := s.db.Put(bucket, to, r); err != nil {
		u.open()
		return volume.Volume{}, fmt.Errorf("rename %s: %w", name, err)
	}
	if err := s.finishRename(&r); err != nil {
		back := os.Rename(filepath.Join(s.root, to), filepath.Join(s.root, name))
		if back == nil || errors.Is(back, fs.ErrNotExist) {
			back = s.db.Delete(bucket, to)
		}
		u.open()
		return volume.Volume{}, errors.Join(fmt.Errorf("rename %s: %w", name, err), back)
	}
	delete(s.all, name)
	delete(s.uses, name)
	s.all[to], s.uses[to] = r, newUse()
	s.tell("rename", to, map[string]string{"driver": "local", "oldName": name})
	return r.shown(), nil
}

// finishRename does what follows the new record: the folder, the old record, and
// that nothing is left to do.
func (s *Store) finishRename(r *record) error {
	old := r.RenamedFrom
	err := os.Rename(filepath.Join(s.root, old), filepath.Join(s.root, r.Name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syncFolder(s.root); err != nil {
		return err
	}
	if err := s.db.Delete(bucket, old); err != nil {
		return err
	}
	done := *r
	done.RenamedFrom = ""
	if err := s.db.Put(bucket, r.Name, done); err != nil {
		s.log.Warn("a rename is stored at the next start", "volume", r.Name, "error", err)
		return nil
	}
	*r = done
	return nil
}

// resumeRenames finishes what a former engine did not.
func (s *Store) resumeRenames() error {
	for name, r := range s.all {
		if r.RenamedFrom == "" {
			continue
		}
		old := r.RenamedFrom
		_, ok := s.all[old]
		if ok { // two folders: a volume of the old name was made since
			there, err := bothThere(filepath.Join(s.root, old), filepath.Join(s.root, name))
			if err != nil {
				return fmt.Errorf("finish the renaming of the volume %s: %w", name, err)
			}
			ok = !there
		}
		if !ok { // that is through: what has the old name is another's
			r.RenamedFrom = ""
			if err := s.db.Put(bucket, name, r); err != nil {
				return fmt.Errorf("finish the renaming of the volume %s: %w", name, err)
			}
		} else if err := s.finishRename(&r); err != nil {
			return fmt.Errorf("finish the renaming of the volume %s: %w", name, err)
		}
		s.all[name] = r
		if ok {
			delete(s.all, old)
			delete(s.uses, old)
		}
	}
	return nil
}

func bothThere(paths ...string) (bool, error) {
	for _, p := range paths {
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}
