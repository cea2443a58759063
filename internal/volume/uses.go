package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/sys/mount"
	"github.com/moby/sys/mountinfo"
)

// use is who uses a volume now. What its options name is mounted for the first
// and unmounted after the last.
type use struct {
	work sync.Mutex // held across a mount; above the store's mu and this one's

	mu     sync.Mutex     // guards what follows
	by     map[string]int // places in each container that runs, or in what reads it
	closed error          // why nobody may begin: the volume is removed, or being changed
}

func newUse() *use { return &use{by: map[string]int{}} }

func (u *use) users() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.by)
}

// Use is one container's mount of a volume, as its event tells.
type Use struct {
	Container, Destination, Propagation string
	Writable                            bool
}

// Mount makes what a volume holds be found at its Mountpoint, until the container's
// Unmount. Errors: NotFound, FailedPrecondition when its folder is gone.
func (s *Store) Mount(ctx context.Context, name string, q Use) (volume.Volume, error) {
	r, err := s.begin(ctx, name, q.Container)
	if err != nil {
		return volume.Volume{}, err
	}
	s.told()("mount", name, map[string]string{"driver": r.Driver, "container": q.Container, "destination": q.Destination,
		"read/write": strconv.FormatBool(q.Writable), "propagation": q.Propagation})
	return r.shown(), nil
}

// begin is Mount without its event.
func (s *Store) begin(ctx context.Context, name, by string) (*record, error) {
	s.mu.Lock()
	r, ok := s.all[name]
	u := s.uses[name]
	s.mu.Unlock()
	if !ok {
		return nil, unknown(name)
	}
	if err := u.add(ctx, &r, by); err != nil {
		return nil, err
	}
	return &r, nil
}

func (u *use) add(ctx context.Context, r *record, by string) error {
	if r.mounts() {
		if err := patiently(ctx, func() error { return u.mount(r, by) }, func() error { u.forgetOne(by); return u.settle(r) }); err != nil {
			return fmt.Errorf("error while mounting volume '%s': %w", r.Mountpoint, err)
		}
		return nil
	}
	st, err := os.Stat(r.Mountpoint)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("error while mounting volume '%s': the folder of the volume %s is gone: somebody removed it; make it again (mkdir -p) or bring it back, or remove the volume", r.Mountpoint, r.Name))
	case err != nil:
		return fmt.Errorf("error while mounting volume '%s': %w", r.Mountpoint, err)
	case !st.IsDir():
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("error while mounting volume '%s': it is no folder", r.Mountpoint))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed != nil {
		return u.closed
	}
	u.by[by]++
	return nil
}

// patiently does what may hang, for as long as somebody waits; done too late, it
// is undone.
func patiently(ctx context.Context, do, undo func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		go func() {
			if <-done == nil {
				_ = undo() // the next use finds it mounted
			}
		}()
		return context.Cause(ctx)
	}
}

func (u *use) mount(r *record, by string) error {
	u.work.Lock()
	defer u.work.Unlock()
	u.mu.Lock()
	closed := u.closed
	u.mu.Unlock()
	if closed != nil {
		return closed
	}
	there, err := mountinfo.Mounted(r.Mountpoint)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(r.Mountpoint, 0o755) // it holds nothing of its own
	}
	if err == nil && !there {
		err = attach(r)
	}
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.by[by]++
	return nil
}

// forget ends one's use, and says of how many places.
func (u *use) forget(by string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.by[by]
	delete(u.by, by)
	return n
}

// forgetOne ends the use of one place.
func (u *use) forgetOne(by string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by[by]--; u.by[by] <= 0 {
		delete(u.by, by)
	}
}

// settle unmounts what nobody uses any more. It may hang as long as the kernel does.
func (u *use) settle(r *record) error {
	u.work.Lock()
	defer u.work.Unlock()
	return u.unmountLocked(r)
}

// unmountLocked unmounts what nobody uses. Who has it open may go on.
func (u *use) unmountLocked(r *record) error {
	if u.users() > 0 {
		return nil
	}
	for {
		there, err := mountinfo.Mounted(r.Mountpoint)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !there {
			return nil
		}
		if err == nil {
			err = mount.Unmount(r.Mountpoint)
		}
		if err != nil {
			return fmt.Errorf("unmount the volume %s: %w", r.Name, err)
		}
	}
}

// closeLocked makes sure that nothing is mounted in a volume that is to be removed
// or changed, and that nobody begins to use it. Error: Conflict while it is used.
func (u *use) closeLocked(r *record, why error) error {
	if r.mounts() {
		if err := u.unmountLocked(r); err != nil {
			return err
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.by) > 0 {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("volume is in use - [%s]", strings.Join(slices.Sorted(maps.Keys(u.by)), ", ")))
	}
	// Whoever removes or exchanges the folder would do so with what is mounted below
	// it too, as a container may with a volume that is rshared.
	if there, err := mountsIn(filepath.Dir(r.Mountpoint)); err != nil {
		return err
	} else if len(there) > 0 {
		return errdefs.ErrFailedPrecondition.WithMessage("something is mounted at " + there[0] + ": unmount it first")
	}
	u.closed = why
	return nil
}

// mountsIn are the places in a folder where something is mounted, the innermost first.
func mountsIn(dir string) (places []string, err error) {
	dir, err = filepath.EvalSymlinks(dir) // of the data root
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	for _, m := range list {
		places = append(places, m.Mountpoint)
	}
	slices.SortFunc(places, func(a, b string) int { return len(b) - len(a) })
	return places, err
}

// open takes back what closeLocked did.
func (u *use) open() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = nil
}

// Unmount ends all that a container uses of volumes; a mount that this is the end
// of is unmounted behind the answer.
func (s *Store) Unmount(container string, names []string) {
	for _, name := range names {
		s.mu.Lock()
		r, ok := s.all[name]
		u := s.uses[name]
		s.mu.Unlock()
		if !ok {
			continue
		}
		for range u.forget(container) {
			s.told()("unmount", name, map[string]string{"driver": r.Driver, "container": container})
		}
		if r.mounts() {
			go s.settle(u, &r)
		}
	}
}

// Hold says that a container uses volumes since before this engine began.
func (s *Store) Hold(container string, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if u := s.uses[name]; u != nil {
			u.mu.Lock()
			u.by[container]++
			u.mu.Unlock()
		}
	}
}

// Settle unmounts what a former engine mounted and no container uses any more.
// Hold has told of those that do.
func (s *Store) Settle() {
	s.mu.Lock()
	all, uses := maps.Clone(s.all), maps.Clone(s.uses)
	s.mu.Unlock()
	for name, r := range all {
		if !r.mounts() {
			continue
		}
		go s.settle(uses[name], &r)
	}
}

func (s *Store) settle(u *use, r *record) {
	if err := u.settle(r); err != nil {
		s.log.Error("a volume stays mounted", "volume", r.Name, "error", err)
	}
}

func (s *Store) told() func(action, name string, attributes map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tell
}
