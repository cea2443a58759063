// Package volume holds the volumes of the local driver. Which containers use one
// is asked of the engine.
//
//	DATAROOT/volumes/NAME/_data        what it holds, or where that is mounted while it
//	                                   is used; a record in the store tells of it
//	DATAROOT/volumes/NAME/snapshots/*  states of it that were kept
//	DATAROOT/volumes/.trash-ID/NAME    a removed volume that may come back
//	DATAROOT/volumes/.removed-*/NAME   a removal that is not through
//	DATAROOT/volumes/.new-*/NAME       a volume that is being filled
package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/sys/mount"
)

const bucket = "volumes"

// db is what volumes need of the store.
type db interface {
	Put(bucket, key string, v any) error
	Delete(bucket, key string) error
	Each(bucket string, f func(key string, value []byte) error) error
}

// Store has all volumes.
type Store struct {
	root string
	db   db
	name *regexp.Regexp

	mu    sync.Mutex // guards what follows, and creations and removals
	all   map[string]record
	uses  map[string]*use    // by name, for as long as the volume is known
	trash map[string]trashed // by id
	wait  time.Duration      // how long what was removed can come back; 0: not at all
	inUse func(name string) []string
	tell  func(action, name string, attributes map[string]string)

	freeze  func(ctx context.Context, name string) (thaw func(), err error)
	limiter Limiter // nil: none
	serial  atomic.Int64
	pruning sync.Mutex // held while volumes are pruned
	log     *slog.Logger
}

// record is a volume as it is stored.
type record struct {
	volume.Volume
	Protected bool       `json:",omitempty"`
	Snapshots []Snapshot `json:",omitempty"` // the oldest first
	// RenamedFrom is its name of before while a rename is not through.
	RenamedFrom string `json:",omitempty"`
	Limit       string `json:",omitempty"` // how its size is kept; "": it has none
	// Undone is its id in the trash that it came back from.
	Undone string `json:",omitempty"`
}

// shown is the volume as the API has it; what Docker's do not have is its status.
func (r *record) shown() volume.Volume {
	v := r.Volume
	if r.Protected || len(r.Snapshots) > 0 {
		v.Status = map[string]any{}
	}
	if r.Protected {
		v.Status["Protected"] = true
	}
	if len(r.Snapshots) > 0 {
		v.Status["Snapshots"] = len(r.Snapshots)
	}
	return v
}

// anonymous says whether it was made without a name.
func (r *record) anonymous() bool { _, ok := r.Labels[anonymousLabel]; return ok }

// mounts says whether it is a mount, and not its folder alone.
func (r *record) mounts() bool { return r.foreign() || r.Limit == byFile }

// foreign says whether it is a mount of what is elsewhere.
func (r *record) foreign() bool { return r.Options["device"] != "" || r.Options["type"] != "" }

// Open reads the records; dataRoot/volumes is made when it is absent. Settle must
// follow when it is known which containers run.
func Open(dataRoot string, d db) (*Store, error) {
	s := &Store{root: filepath.Join(dataRoot, "volumes"), db: d, all: map[string]record{}, uses: map[string]*use{}, trash: map[string]trashed{},
		name: regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`), inUse: func(string) []string { return nil },
		tell: func(string, string, map[string]string) {}, log: slog.Default()}
	// Nobody else enters: a container could leave a set-id program in a volume,
	// which a user of the host must not reach by its name.
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, fmt.Errorf("the folder of volumes: %w", err)
	}
	if err := os.Chmod(s.root, 0o700); err != nil { // a former version's
		return nil, fmt.Errorf("the folder of volumes: %w", err)
	}
	err := d.Each(bucket, func(k string, b []byte) error {
		var v record
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("the record of volume %s: %w", k, err)
		}
		s.all[k] = v
		s.uses[k] = newUse()
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.resumeRenames(); err != nil {
		return nil, err
	}
	if err := errors.Join(s.emptyTrash(), forgetUnmade(s), recoverRestored(s)); err != nil {
		return nil, err
	}
	return s, s.loadTrash()
}

// SetInUse wires who answers which containers use a volume.
func (s *Store) SetInUse(f func(name string) []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse = f
}

// SetPublish wires who is told that a volume was created or destroyed, or that
// volumes were pruned.
func (s *Store) SetPublish(f func(action, name string, attributes map[string]string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = f
}

// Create makes a volume, or answers with the one of that name. Without a name
// it gets a random one and is anonymous.
func (s *Store) Create(ctx context.Context, r volume.CreateRequest) (volume.Volume, error) {
	if err := s.check(&r); err != nil {
		return volume.Volume{}, err
	}
	if n, err := size(r.DriverOpts); err == nil && n > 0 {
		return s.createLimited(ctx, r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.all[r.Name]; ok {
		return v.shown(), nil
	}
	v := s.newRecord(&r)
	// The folders are on disk before the record that tells of them.
	err := os.MkdirAll(v.Mountpoint, 0o755)
	if err == nil {
		err = errors.Join(syncFolder(filepath.Dir(v.Mountpoint)), syncFolder(s.root))
	}
	if err == nil {
		err = s.db.Put(bucket, v.Name, v)
	}
	if err != nil {
		// Only what is empty goes: a folder that was there may be somebody's data.
		_, _ = os.Remove(v.Mountpoint), os.Remove(filepath.Dir(v.Mountpoint))
		return volume.Volume{}, fmt.Errorf("create %s: %w", r.Name, err)
	}
	s.all[v.Name], s.uses[v.Name] = v, newUse()
	s.tell("create", v.Name, driver())
	return v.shown(), nil
}

// createLimited makes what takes a moment.
func (s *Store) createLimited(ctx context.Context, r volume.CreateRequest) (volume.Volume, error) {
	v, err := s.Get(ctx, r.Name)
	if errdefs.IsNotFound(err) {
		if v, err = s.Fill(ctx, r, func(string) error { return nil }); errdefs.IsConflict(err) {
			v, err = s.Get(ctx, r.Name) // somebody else was quicker
		}
	}
	if err == nil && v.Options["size"] != r.DriverOpts["size"] {
		return v, errdefs.ErrConflict.WithMessage(fmt.Sprintf("create %s: there is a volume of that name whose size is not limited to %s: name another, or remove that", r.Name, r.DriverOpts["size"]))
	}
	return v, err
}

// check completes and refuses a request.
func (s *Store) check(r *volume.CreateRequest) error {
	if r.Driver != "" && r.Driver != "local" {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"create %s: error looking up volume plugin %s: plugin %q not found: only the driver \"local\" is there", r.Name, r.Driver, r.Driver))
	}
	if err := checkOptions(r.DriverOpts); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("create %s: %v", r.Name, err))
	}
	if r.Name == "" {
		var id [32]byte
		rand.Read(id[:])
		r.Name = hex.EncodeToString(id[:])
		labels := map[string]string{anonymousLabel: ""}
		maps.Copy(labels, r.Labels)
		r.Labels = labels
	}
	return s.checkName("create", r.Name)
}

func (s *Store) checkName(verb, name string) error {
	if len(name) == 1 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s %s: volume name is too short, names should be at least two alphanumeric characters", verb, name))
	}
	if !s.name.MatchString(name) || len(name) > 255 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"%s %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", verb, name, name))
	}
	return nil
}

func (s *Store) newRecord(r *volume.CreateRequest) record {
	v := record{Volume: volume.Volume{Name: r.Name, Driver: "local", Scope: "local", Labels: r.Labels, Mountpoint: s.dataOf(r.Name),
		CreatedAt: time.Now().UTC().Format(time.RFC3339), Options: map[string]string{}}}
	maps.Copy(v.Options, r.DriverOpts)
	return v
}

func (s *Store) dataOf(name string) string { return filepath.Join(s.root, name, "_data") }

// Get finds a volume by its name.
func (s *Store) Get(_ context.Context, name string) (volume.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.all[name]
	if !ok {
		return volume.Volume{}, unknown(name)
	}
	return v.shown(), nil
}

func unknown(name string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("get %s: no such volume", name))
}

// List has the volumes that pass Docker's filters (name, label, driver, dangling), by name.
func (s *Store) List(_ context.Context, f map[string]map[string]bool) ([]volume.Volume, error) {
	for k := range f {
		switch k {
		case "name", "label", "driver", "dangling":
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", k))
		}
	}
	s.mu.Lock()
	all := make([]volume.Volume, 0, len(s.all))
	for _, v := range s.all {
		all = append(all, v.shown())
	}
	inUse := s.inUse
	s.mu.Unlock()
	list := all[:0]
	for _, v := range all {
		if passes(v, f, inUse) {
			list = append(list, v)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list, nil
}

func passes(v volume.Volume, f map[string]map[string]bool, inUse func(string) []string) bool {
	named := len(f["name"]) == 0
	for n := range f["name"] {
		named = named || strings.Contains(v.Name, n)
	}
	for l := range f["label"] {
		k, want, exact := strings.Cut(l, "=")
		if got, ok := v.Labels[k]; !ok || exact && got != want {
			return false
		}
	}
	for d := range f["dangling"] {
		if dangling := len(inUse(v.Name)) == 0; dangling != (d == "true" || d == "1") {
			return false
		}
	}
	return named && (len(f["driver"]) == 0 || f["driver"][v.Driver])
}

// Remove deletes a volume; force makes an absent one no error. What one with a name
// holds may come back for a while (Undo), but for now.
func (s *Store) Remove(_ context.Context, name string, force bool) error {
	return s.remove(name, force, false)
}

// RemoveNow is Remove that nothing brings back.
func (s *Store) RemoveNow(_ context.Context, name string, force bool) error {
	return s.remove(name, force, true)
}

func (s *Store) remove(name string, force, now bool) error {
	trash, err := s.take(name, force, now)
	if err != nil || trash == "" {
		return err
	}
	if err := s.removeAll(trash, name); err != nil {
		return fmt.Errorf("remove %s: what it held is in %s and is tried again at the next start: %w", name, trash, err)
	}
	return nil
}

// take makes a volume unknown and moves its folder away: to the trash, or, with an
// answer, for removal.
func (s *Store) take(name string, force, now bool) (trash string, err error) {
	s.mu.Lock()
	u := s.uses[name]
	s.mu.Unlock()
	if u != nil { // an unmount that is under way is waited for
		u.work.Lock()
		defer u.work.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.all[name]
	switch {
	case ok && s.uses[name] != u: // removed and made again meanwhile
		return "", errdefs.ErrConflict.WithMessage(fmt.Sprintf("remove %s: volume is in use: it was made just now", name))
	case !ok && force:
		return "", nil
	case !ok:
		return "", unknown(name)
	case v.Protected:
		return "", errdefs.ErrConflict.WithMessage(fmt.Sprintf("remove %s: the volume is protected: hezi volume unprotect %s lets it be removed", name, name))
	}
	if ids := s.inUse(name); len(ids) > 0 {
		return "", errdefs.ErrConflict.WithMessage(fmt.Sprintf("remove %s: volume is in use - [%s]", name, strings.Join(ids, ", ")))
	}
	// What is mounted there would be removed with it.
	if err := u.closeLocked(&v, unknown(name)); err != nil {
		return "", fmt.Errorf("remove %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			u.open()
		}
	}()
	if !now && s.wait > 0 && !v.anonymous() {
		if done, err := s.keepLocked(&v); done || err != nil {
			return "", err
		}
	}
	// The data goes first: a removal that a power cut interrupts is finished by
	// the next Open, and never leaves data for a new volume of the name.
	if trash, err = os.MkdirTemp(s.root, trashPrefix); err != nil {
		return "", fmt.Errorf("remove %s: %w", name, err)
	}
	if err := s.moveLocked(&v, trash); err != nil {
		return "", err
	}
	return trash, nil
}

// moveLocked moves a volume's folder into another, and forgets the volume.
func (s *Store) moveLocked(v *record, trash string) error {
	folder, aside := filepath.Dir(v.Mountpoint), filepath.Join(trash, v.Name)
	err := os.Rename(folder, aside)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody removed it by hand
	}
	if err == nil {
		err = errors.Join(syncFolder(trash), syncFolder(s.root))
	}
	if err == nil {
		err = s.db.Delete(bucket, v.Name)
	}
	if err != nil {
		if rerr := os.Rename(aside, folder); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		} else {
			err = errors.Join(err, os.Remove(trash))
		}
		return fmt.Errorf("remove %s: %w", v.Name, err)
	}
	delete(s.all, v.Name)
	delete(s.uses, v.Name)
	s.tell("destroy", v.Name, driver())
	return nil
}

// driver are the attributes of a volume's events.
func driver() map[string]string { return map[string]string{"driver": "local"} }

// syncFolder makes what a folder lists survive a power cut.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// trashPrefix names folders on their way out; no volume can have such a name.
const trashPrefix = ".removed-"

// emptyTrash finishes removals that a former engine did not.
func (s *Store) emptyTrash() error {
	unfilled, err := filepath.Glob(filepath.Join(s.root, newPrefix+"*"))
	if err != nil {
		return err
	}
	states, err := filepath.Glob(s.snapshotPath("*", newPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range append(unfilled, states...) {
		mounted, err := mountsIn(dir) // a disk that was being made
		for _, at := range mounted {
			err = errors.Join(err, mount.Unmount(at))
		}
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			return fmt.Errorf("remove a volume that was not filled: %w", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(s.root, trashPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		names, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("finish the removal of a volume: %w", err)
		}
		for _, n := range names {
			v, known := s.all[n.Name()]
			if !known {
				continue
			}
			if _, err := os.Lstat(filepath.Dir(v.Mountpoint)); !errors.Is(err, fs.ErrNotExist) {
				continue // a new volume of that name
			}
			if err := s.db.Delete(bucket, n.Name()); err != nil {
				return fmt.Errorf("finish the removal of the volume %s: %w", n.Name(), err)
			}
			delete(s.all, n.Name())
			delete(s.uses, n.Name())
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what a volume held: %w", err)
		}
	}
	return nil
}
