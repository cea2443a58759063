package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
)

// Chain names the layers of one container, newest first. It writes to the first;
// the others are what it had written when snapshots were made, and never change.
// A nil chain is of a container that has the layer alone that Create made.
type Chain []string

const (
	upperName = "fs"
	workName  = "work"
	// first is the layer that Create makes; later ones have numbers from 2.
	first = ""
)

func (c Chain) names() []string {
	if len(c) == 0 {
		return []string{first}
	}
	return c
}

// Under is the chain with the layer top above it; a nil one has no layer then.
func (c Chain) Under(top string) Chain { return append(Chain{top}, c...) }

// Saved is all of the chain but the layer that is written to.
func (c Chain) Saved() Chain { return slices.Clone(c.names()[1:]) }

// All names every layer of the chain, newest first.
func (c Chain) All() Chain { return slices.Clone(c.names()) }

// Replaced is the chain with one layer in the place of two that follow each other.
func (c Chain) Replaced(above, below, one string) Chain {
	for i := 1; i < len(c); i++ {
		if c[i-1] == above && c[i] == below {
			return slices.Replace(slices.Clone(c), i-1, i+1, one)
		}
	}
	return c
}

func suffixed(name, layer string) string {
	if layer == first {
		return name
	}
	return name + "." + layer
}

// layerOf is the layer that a folder of a container belongs to.
func layerOf(folder string) (layer string, ok bool) {
	for _, name := range []string{upperName, workName} {
		if folder == name {
			return first, true
		}
		if layer, ok := strings.CutPrefix(folder, name+"."); ok {
			return layer, true
		}
	}
	return "", false
}

func (s *Store) upper(id, layer string) string {
	return filepath.Join(s.folder(id), suffixed(upperName, layer))
}

func (s *Store) work(id, layer string) string {
	return filepath.Join(s.folder(id), suffixed(workName, layer))
}

// Grow implements Saver: by an empty layer above the others.
func (s *Store) Grow(_ context.Context, id string, c Chain) (Chain, error) {
	if err := s.writable(id); err != nil {
		return nil, err
	}
	for _, layer := range c.names() {
		if _, err := os.Lstat(s.upper(id, layer)); errors.Is(err, fs.ErrNotExist) {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the folder %s is gone, which had what the container wrote: somebody removed it: put it back, or use a snapshot that was made before", s.upper(id, layer)))
		}
	}
	layer, err := s.grow(id, c.names()[0])
	if err != nil {
		return nil, err
	}
	return c.All().Under(layer), nil
}

// Copy implements Saver: by a copy of the layer that is written to.
func (s *Store) Copy(ctx context.Context, id string, c Chain) (Chain, error) {
	if err := s.ready(id); err != nil {
		return nil, err
	}
	layer, err := s.grow(id, c.names()[0])
	if err != nil {
		return nil, err
	}
	to := s.upper(id, layer)
	if err := box.CopyLayer(ctx, s.Get(id, c).Upper, to); err != nil {
		return nil, err
	}
	f, err := os.Open(to)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return nil, fmt.Errorf("write the copy to the disk: %w", err)
	}
	return c.Saved().Under(layer), nil
}

// grow makes an empty layer of a container that exists, and returns its name. Its
// root directory is like that of the layer like, for the merged root shows the
// uppermost.
func (s *Store) grow(id, like string) (layer string, err error) {
	if !valid(id) {
		return "", errdefs.ErrInvalidArgument.WithMessage("the id of a layer must be a plain name: " + id)
	}
	s.holdBack(id)
	for n := 2; ; n++ {
		layer = strconv.Itoa(n)
		err := os.Mkdir(s.upper(id, layer), 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if errors.Is(err, unix.ENOSPC) && s.giveUp(id, 0) {
			n--
			continue
		}
		if err == nil {
			err = sameRoot(s.upper(id, layer), s.upper(id, like))
		}
		if err == nil {
			if err = os.Mkdir(s.work(id, layer), 0o700); errors.Is(err, fs.ErrExist) {
				err = nil // left behind with its layer gone
			}
			if errors.Is(err, unix.ENOSPC) && s.giveUp(id, 0) {
				err = os.Mkdir(s.work(id, layer), 0o700)
			}
		}
		if errors.Is(err, unix.ENOSPC) && s.limited(id) {
			err = fmt.Errorf("%w: the disk space that the container is limited to is used up: remove snapshots of it, or files in it, or commit it to an image", err)
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("make a layer of container %s: %w", id, err), s.discard(id, layer))
		}
		return layer, nil
	}
}

// sameRoot gives a new layer's root the owner, mode, times and attributes of another's,
// but not what overlay itself noted there.
func sameRoot(dir, like string) error {
	var st unix.Stat_t
	if err := unix.Lstat(like, &st); err != nil {
		return err
	}
	if err := unix.Lchown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(dir, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyAttributes(dir, like, false); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyAttributes copies extended attributes, those that overlay keeps only if all.
func copyAttributes(to, from string, all bool) error {
	list, err := attributeNames(from)
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range list {
		if !all && strings.HasPrefix(name, overlayPrefix) {
			continue
		}
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:n], 0)
		}
		if err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("attribute %s of %s: %w", name, from, err)
		}
	}
	return nil
}

// overlayPrefix is of the attributes that overlay keeps in its layers.
const overlayPrefix = "trusted.overlay."

func attributeNames(path string) ([]string, error) {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Split(string(buf[:n]), "\x00"), func(n string) bool { return n == "" }), nil
}

// Keep implements Saver: they are what a snapshot that was given up, or an engine that
// was killed, left. No mount may have them.
func (s *Store) Keep(id string, chains ...Chain) error {
	if !valid(id) {
		return errdefs.ErrInvalidArgument.WithMessage("the id of a layer must be a plain name: " + id)
	}
	if err := s.ready(id); err != nil {
		return err
	}
	list, err := os.ReadDir(s.folder(id))
	if err != nil {
		return fmt.Errorf("list the layers of container %s: %w", id, err)
	}
	wanted := map[string]bool{}
	for _, c := range chains {
		for _, layer := range c.names() {
			wanted[layer] = true
		}
	}
	gone := map[string]bool{}
	for _, d := range list {
		if layer, ok := layerOf(d.Name()); ok && !wanted[layer] {
			gone[layer] = true
		}
		if s.limited(id) && strings.HasPrefix(d.Name(), trashPrefix) { // an engine that was killed left it
			s.deleteBehind(filepath.Join(s.folder(id), d.Name()))
		}
	}
	var errs []error
	for layer := range gone {
		errs = append(errs, s.discard(id, layer))
	}
	return errors.Join(errs...)
}

// discard hands a layer of a container to those who delete.
func (s *Store) discard(id, layer string) error {
	var errs []error
	for _, dir := range []string{s.upper(id, layer), s.work(id, layer)} {
		trash, err := s.toTrash(id, dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove a layer of container %s: %w", id, err))
		}
		if trash != "" {
			s.deleteBehind(trash)
		}
	}
	return errors.Join(errs...)
}

// toTrash takes a directory of a container to what is deleted.
func (s *Store) toTrash(id, dir string) (trash string, err error) {
	if s.limited(id) { // nothing can be moved out of its disk, and there may be no space to make anything
		trash = filepath.Join(s.folder(id), fmt.Sprintf("%s%s-%d", trashPrefix, filepath.Base(dir), time.Now().UnixNano()))
		return trash, os.Rename(dir, trash)
	}
	if trash, err = os.MkdirTemp(s.root, trashPrefix+id+"-"); err != nil {
		return "", err
	}
	return trash, os.Rename(dir, filepath.Join(trash, "layer"))
}
