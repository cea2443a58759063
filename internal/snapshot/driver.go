package snapshot

import (
	"context"
	"os"
	"slices"

	"hezi/internal/box"
)

// Driver keeps containers' own file systems. There are five: overlay2 and erofs
// (Overlay: the kernel stacks a container's writable directory on the image's
// layers; with erofs these are mounted files), fuse-overlayfs (Fuse: a program
// does), btrfs and vfs (Whole: a container has a copy of its image's tree, which
// with btrfs is a snapshot).
//
// An image is the directories of its layers, topmost first; a driver whose layers
// are whole trees looks at the topmost alone. A container's file system is made by
// Create and gone after Remove. In between Root gives what a start mounts, as
// often as it is asked; Release ends what Root may have begun, when the container
// does not run any more. View shows it to others at any time.
//
// Methods may be called from any goroutine; those of one container, but for View
// and Size, one after the other. Errors are classed by errdefs.
type Driver interface {
	// Name as --storage-driver has it.
	Name() string
	// Create makes a container's file system as its image is. Errors:
	// AlreadyExists, and what image.Lower says.
	Create(ctx context.Context, id string, image Image) error
	// Limit bounds the bytes on disk of what was just made, or limited before.
	// Error: NotImplemented where that cannot be done.
	Limit(id string, bytes int64) error
	// CanLimit tries whether Limit can be used with so many bytes. Error: as Limit's.
	CanLimit(bytes int64) error
	// Restore makes what a power cut took of a container that ran, or lets it be.
	// lost says whether anything was missing. NotFound: it cannot be made again.
	Restore(id string, c Chain) (lost bool, err error)
	// Place is the path by which box.RootOf knows a container that runs.
	Place(id string, c Chain) string
	// Root is what the container's start mounts.
	Root(ctx context.Context, id string, c Chain, lower []string) (box.Root, error)
	// Release ends what Root began; it is no error if that was nothing.
	Release(id string) error
	// View is a container's file system, or with id "" its image, to be read, or
	// with write to be written to. Done is called after the last use.
	View(ctx context.Context, id string, c Chain, lower []string, write bool) (v View, err error)
	// Size is how many bytes a container's own files have, and those of its
	// snapshots; hard links count once.
	Size(ctx context.Context, id string) (int64, error)
	// Remove takes a container's file system away. An absent one is no error.
	Remove(id string) error
	// Sweep removes the file systems of containers that are not known.
	Sweep(known func(id string) bool) error
	Saver
}

// Saver keeps what containers have written, as layers of their own. With Whole a
// layer is a tree with all that the container sees, and chains have one.
type Saver interface {
	// Get is where the layers are; nothing with Whole.
	Get(id string, c Chain) Writable
	Base() string
	// Grow makes what a container that does not run writes to from now on, in
	// place of c, and shows the same. All that c has stays as it is.
	Grow(ctx context.Context, id string, c Chain) (Chain, error)
	// Copy makes a chain that nobody writes to of what a container that runs, and
	// is frozen, has written by now. What it has begun before an error, Keep removes.
	Copy(ctx context.Context, id string, c Chain) (Chain, error)
	// Keep removes the layers of a container that none of chains has.
	Keep(id string, chains ...Chain) error
	// Flatten makes one layer of two that follow each other in chains. done is false
	// where that cannot be.
	Flatten(ctx context.Context, id, above, below string) (layer string, done bool, err error)
	SizeOf(ctx context.Context, id, layer string) (int64, error)
}

// Image is what a container is made of.
type Image struct {
	Chain string // the topmost layer's name; "" for an image without layers
	// Lower unpacks it, if need be, and gives the directories.
	Lower func(ctx context.Context) ([]string, error)
}

// View is a root file system to look at.
type View struct {
	box.Root
	done func() error
}

// Done ends a View; what was opened of it stays open.
func (v *View) Done() error {
	if v.done == nil {
		return nil
	}
	return v.done()
}

// Open is the view's root directory; it stays when the view is done.
func (v *View) Open() (*os.File, error) {
	if v.Overlay != nil {
		return box.View(v.Overlay.Lower)
	}
	return box.ViewOf(v.Path)
}

// Overlay is overlay2, and erofs, whose layers are directories, too.
type Overlay struct {
	*Store
	As string // its name
}

var _ Driver = (*Overlay)(nil)

// Name implements Driver.
func (o *Overlay) Name() string { return o.As }

// Create implements Driver. Nothing of the image is needed yet.
func (s *Store) Create(_ context.Context, id string, _ Image) error {
	_, err := s.Make(id)
	return err
}

// Place implements Driver.
func (s *Store) Place(id string, c Chain) string { return s.Get(id, c).Upper }

// Root implements Driver; it reads nothing but what a limit needs.
func (s *Store) Root(_ context.Context, id string, c Chain, lower []string) (box.Root, error) {
	if err := s.startable(id); err != nil {
		return box.Root{}, err
	}
	w := s.Get(id, c)
	return box.Root{Overlay: &box.Overlay{Lower: s.above(w.Below, lower), Upper: w.Upper, Work: w.Work}}, nil
}

// above puts a container's saved layers and an image's on the lowest.
func (s *Store) above(saved, lower []string) []string {
	return slices.Concat(saved, lower, []string{s.Base()})
}

// Release implements Driver.
func (s *Store) Release(string) error { return nil }

// View implements Driver: one to be written to is what a start mounts.
func (s *Store) View(ctx context.Context, id string, c Chain, lower []string, write bool) (View, error) {
	if write {
		root, err := s.Root(ctx, id, c, lower)
		return View{Root: root}, err
	}
	all := s.above(nil, lower)
	if id != "" {
		if err := s.ready(id); err != nil {
			return View{}, err
		}
		w := s.Get(id, c)
		all = append([]string{w.Upper}, s.above(w.Below, lower)...)
	}
	return View{Root: box.Root{Overlay: &box.Overlay{Lower: all}}}, nil
}
