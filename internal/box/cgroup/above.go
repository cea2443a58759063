package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// slice is the group above scopes of systemd's (cgroup v2). systemd removes a
// scope with its count of kills when its last process is gone, which may be
// before anyone else learns of that end, and what was opened before cannot be
// read either. The slice stays, and counts the kills of all that is below it: a
// rise that no scope that is still there explains is of one that is gone.
//
// What a slice cannot tell apart are kills in several groups that go within the
// same few milliseconds unread. The root group, above a scope in "-.slice", has
// no such count. See signals for cgroup v1.
type slice struct {
	dir   string
	key   int32 // of inotify
	users int   // guarded by the watcher's mu

	reading sync.Mutex // held while counts are read; taken before the watcher's mu; guards what follows
	kills   uint64     // as last read
	known   uint64     // of those, counted in scopes since the first was watched
}

// unexplained only means something in comparison with an earlier one: it may
// begin anywhere. reading is held.
func (s *slice) unexplained() int64 { return int64(s.kills - s.known) }

// InScope says whether a container's cgroup is a scope of systemd's on cgroup v2.
func InScope(paths map[string]string) bool {
	name := filepath.Base(paths[""])
	return len(paths) == 1 && strings.HasPrefix(name, scopePrefix) && strings.HasSuffix(name, scopeSuffix)
}

// killsIn reads a group's count (cgroup v2).
func killsIn(dir string) (uint64, error) {
	text, err := read(dir, "memory.events")
	return field(text, "oom_kill"), err
}

// removed says whether an error is that a cgroup is not there any more.
func removed(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// addAboveLocked watches the slice of a scope.
func (w *Watcher) addAboveLocked(x *watched) error {
	dir := filepath.Dir(x.dir)
	s := w.slices[dir]
	if s == nil {
		if !exists(dir, x.file) {
			return nil
		}
		s = &slice{dir: dir}
		var err error
		if s.key, err = w.notifyLocked(dir, x.file); err != nil {
			return err
		}
		w.slices[dir], w.sliceOf[s.key] = s, s
	}
	s.users++
	x.above = s
	return nil
}

func (w *Watcher) removeAboveLocked(x *watched) {
	s := x.above
	if s == nil {
		return
	}
	if s.users--; s.users == 0 {
		delete(w.slices, s.dir)
		delete(w.sliceOf, s.key)
		w.ignoreLocked(s.key)
	}
}

// begin notes what was counted when a scope is first watched.
func (w *Watcher) begin(x *watched) {
	s := x.above
	if s == nil {
		return
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	own, err := killsIn(x.dir)
	if err != nil {
		return // gone: its end finds no rise
	}
	x.own, x.begun = own, true
	w.refresh(s)
	x.seen = s.unexplained()
}

// look reads a slice's count, which rises with all that is below it.
func (s *slice) look(w *Watcher) {
	s.reading.Lock()
	defer s.reading.Unlock()
	w.refresh(s)
}

// refresh is survey where the slice's count has risen. reading is held.
func (w *Watcher) refresh(s *slice) {
	if kills, err := killsIn(s.dir); err == nil && kills != s.kills {
		w.survey(s)
	}
}

// survey reads a slice's count and those of the scopes that are still there, until
// no kill comes in between. reading is held.
func (w *Watcher) survey(s *slice) {
	var there []*watched
	for range 4 {
		kills, err := killsIn(s.dir)
		if err != nil || there != nil && kills == s.kills {
			break
		}
		s.kills, there = kills, []*watched{}
		for _, x := range w.below(s) {
			if own, err := killsIn(x.dir); err == nil {
				s.known += own - x.own
				x.own = own
				there = append(there, x)
			}
		}
	}
	for _, x := range there {
		x.seen = s.unexplained()
	}
}

// below are the scopes of a slice whose first count is known.
func (w *Watcher) below(s *slice) (list []*watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.groups {
		if x.above == s && x.begun {
			list = append(list, x)
		}
	}
	return list
}

// lost says, of a scope that has ended, whether the kernel killed a process in it
// whose count nobody could read.
func (w *Watcher) lost(x *watched) bool {
	if !x.v2 {
		return w.lostV1(x)
	}
	s := x.above
	if s == nil {
		return false
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	if !x.begun {
		return false
	}
	own, err := killsIn(x.dir)
	if err == nil {
		s.known += own - x.own
		x.own = own
		return false
	}
	w.survey(s)
	if x.own > 0 {
		return true
	}
	if !removed(err) || s.unexplained() <= x.seen {
		return false
	}
	s.known++
	for _, other := range w.below(s) {
		other.seen = min(other.seen, s.unexplained())
	}
	return true
}
