// Package snapshot keeps containers' own file systems, over the layers of
// images, which the image room has. A Driver says how: see its comment.
//
//	ROOT
//	├── base/        an empty lowest layer with the places that every box mounts on
//	├── .trash-*/    removed layers on their way out
//	├── ID/{fs,work} upper and work of one container; of snapshots, fs.2, work.2 …
//	├── ID/merged    where fuse-overlayfs mounts them
//	└── ID/{disk.ext4,disk} of a container whose space is limited where the file system
//	                 cannot do it: a disk in a file, and its mount, with fs, work … in disk/ID
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"hezi/internal/disk"
	"hezi/internal/snapshot/quota"
)

// Writable is a container's own layer, as host paths on one file system.
type Writable struct {
	Upper, Work string
	// Below is what the container had written when snapshots were made, newest first.
	Below []string
}

// Store has all writable layers. Its methods may be called from any goroutine.
type Store struct {
	root string
	log  *slog.Logger

	disks  sync.Map           // ids of containers whose layers are on a disk of their own
	mounts singleflight.Group // of disks
	trash  chan string        // removed layers, for the one goroutine that deletes
	done   sync.WaitGroup

	mu     sync.Mutex // held while something is handed to trash
	closed bool
}

// ScratchPrefix begins the names of folders beside the lowest layer that somebody needs
// for a while; those that are left are removed at the next start.
const ScratchPrefix = trashPrefix + "view-"

const (
	trashPrefix = ".trash-"
	baseName    = "base"
	trashQueue  = 1024
	closeTime   = 5 * time.Second
)

// Open makes root when it is absent, and deletes what a former engine removed.
func Open(root string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(root, 0o710); err != nil {
		return nil, fmt.Errorf("the folder of writable layers: %w", err)
	}
	s := &Store{root: root, log: log, trash: make(chan string, trashQueue)}
	if err := s.makeBase(); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(root, trashPrefix+"*"))
	if err != nil {
		return nil, err
	}
	if err := s.findDisks(); err != nil {
		return nil, err
	}
	s.done.Go(func() {
		for _, dir := range left {
			s.delete(dir)
		}
		for dir := range s.trash {
			s.delete(dir)
		}
	})
	return s, nil
}

// What the lowest layer has.
var (
	baseDirs  = []string{"dev", "etc", "proc", "sys"}
	baseFiles = []string{"etc/hosts", "etc/hostname", "etc/resolv.conf"}
)

// makeBase makes the lowest layer of every container.
func (s *Store) makeBase() error {
	for _, dir := range baseDirs {
		if err := os.MkdirAll(filepath.Join(s.Base(), dir), 0o755); err != nil {
			return fmt.Errorf("the lowest layer: %w", err)
		}
	}
	for _, file := range baseFiles {
		f, err := os.OpenFile(filepath.Join(s.Base(), file), os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("the lowest layer: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("the lowest layer: %w", err)
		}
	}
	return nil
}

// Base is the lowest layer of every container: it has the directories and the
// empty files that a start mounts on, so that a start writes none of them. What
// the image has comes before it.
func (s *Store) Base() string { return filepath.Join(s.root, baseName) }

// Get is where a container's layers are; it reads nothing.
func (s *Store) Get(id string, c Chain) Writable {
	names := c.names()
	w := Writable{Upper: s.upper(id, names[0]), Work: s.work(id, names[0])}
	for _, layer := range names[1:] {
		w.Below = append(w.Below, s.upper(id, layer))
	}
	return w
}

// Make makes a container's layer, empty. Error: AlreadyExists.
func (s *Store) Make(id string) (Writable, error) {
	w := s.Get(id, nil)
	if !valid(id) {
		return w, errdefs.ErrInvalidArgument.WithMessage("the id of a layer must be a plain name: " + id)
	}
	err := os.Mkdir(filepath.Dir(w.Upper), 0o710)
	if errors.Is(err, fs.ErrExist) {
		return w, errdefs.ErrAlreadyExists.WithMessage("the writable layer " + id + " exists")
	}
	if err == nil {
		err = os.Mkdir(w.Upper, 0o755)
	}
	if err == nil {
		err = os.Mkdir(w.Work, 0o700)
	}
	if err != nil {
		return w, errors.Join(fmt.Errorf("make the container's writable layer: %w", err), os.RemoveAll(filepath.Dir(w.Upper)))
	}
	return w, nil
}

// Restore makes what a power cut took of a layer: its folders are not synced
// when they are made. lost says whether anything was missing.
func (s *Store) Restore(id string, c Chain) (lost bool, err error) {
	w := s.Get(id, c)
	if !valid(id) {
		return false, errdefs.ErrInvalidArgument.WithMessage("the id of a layer must be a plain name: " + id)
	}
	if err := s.ready(id); err != nil {
		return false, err
	}
	type folder struct {
		path string
		mode fs.FileMode
	}
	all := []folder{{filepath.Join(s.root, id), 0o710}, {s.folder(id), 0o710}, {w.Upper, 0o755}, {w.Work, 0o700}}
	for _, dir := range w.Below {
		all = append(all, folder{dir, 0o755})
	}
	for _, d := range all {
		switch err := os.Mkdir(d.path, d.mode); {
		case err == nil:
			lost = true
		case !errors.Is(err, fs.ErrExist):
			return lost, fmt.Errorf("make the container's writable layer: %w", err)
		}
	}
	return lost, nil
}

func valid(id string) bool {
	return id != "" && id != baseName && !strings.HasPrefix(id, ".") && !strings.Contains(id, "/")
}

// Remove takes a layer away at once and deletes it behind the answer. An
// absent one is no error.
func (s *Store) Remove(id string) error {
	if !valid(id) {
		return errdefs.ErrInvalidArgument.WithMessage("the id of a layer must be a plain name: " + id)
	}
	trash := filepath.Join(s.root, trashPrefix+id)
	err := os.Rename(filepath.Join(s.root, id), trash)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, unix.EBUSY) { // it is a mount itself
		if err = disk.Detach(filepath.Join(s.root, id)); err == nil {
			err = os.Rename(filepath.Join(s.root, id), trash)
		}
	}
	if err != nil {
		return fmt.Errorf("remove the container's writable layer: %w", err)
	}
	s.disks.Delete(id)
	s.deleteBehind(trash)
	return nil
}

func (s *Store) deleteBehind(trash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return // the next engine deletes it
	}
	select {
	case s.trash <- trash:
	default: // so many wait that the next engine may have the rest
		s.log.Warn("a removed layer is deleted at the next start of hezid: too many are being deleted", "folder", trash)
	}
}

func (s *Store) delete(dir string) {
	project := quota.Of(dir)
	err := disk.Detach(dir) // or what is mounted there would be deleted with it
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		s.log.Warn("a removed layer could not be deleted; it is tried again at the next start of hezid", "folder", dir, "error", err)
		return
	}
	if project == 0 {
		return
	}
	if err := quota.Forget(s.root, project); err != nil {
		s.log.Warn("the limit of a removed layer could not be taken back", "project", project, "error", err)
	}
}

// Sweep removes the layers of containers that are not known.
func (s *Store) Sweep(known func(id string) bool) error {
	list, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("list the writable layers: %w", err)
	}
	var errs []error
	for _, d := range list {
		if id := d.Name(); valid(id) && !known(id) {
			errs = append(errs, s.Remove(id))
		}
	}
	return errors.Join(errs...)
}

// Size is how many bytes the files of a container's layers, and of its snapshots,
// take on disk; hard links count once.
func (s *Store) Size(_ context.Context, id string) (int64, error) {
	if err := s.ready(id); err != nil {
		return 0, err
	}
	return sizeOf(s.folder(id), func(folder string) bool {
		layer, ok := layerOf(folder)
		return ok && folder == suffixed(workName, layer) || strings.HasPrefix(folder, trashPrefix)
	})
}

// SizeOf is the size of one layer of a container.
func (s *Store) SizeOf(_ context.Context, id, layer string) (int64, error) {
	if err := s.ready(id); err != nil {
		return 0, err
	}
	return sizeOf(s.upper(id, layer), nil)
}

// sizeOf adds up the files below top, without the folders in it that are left out.
func sizeOf(top string, leftOut func(folder string) bool) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var total int64
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path != top {
				return nil // the container removed it meanwhile
			}
			return err
		}
		if leftOut != nil && filepath.Dir(path) == top && leftOut(d.Name()) {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || d.IsDir() {
			return nil
		}
		if st.Nlink > 1 {
			key := inode{st.Dev, st.Ino}
			if seen[key] {
				return nil
			}
			seen[key] = true
		}
		total += info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("the size of the writable layer %s: %w", top, err)
	}
	return total, nil
}

// Close waits a moment for removed layers to be deleted; the next engine
// deletes what is left then.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.trash)
	s.mu.Unlock()
	defer s.unmountDisks()
	done := make(chan struct{})
	go func() {
		s.done.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closeTime):
		s.log.Info("removed layers are deleted further at the next start of hezid", "folder", s.root)
	}
	return nil
}
