package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher tells of processes that the kernel kills for lack of memory, in any
// number of groups by one goroutine: v1 signals an eventfd for each, which an
// epoll descriptor collects, v2 an inotify watch.
type Watcher struct {
	told func(OOM)

	mu     sync.Mutex // guards what follows
	poll   *os.File   // of epoll; nil: no v1 group yet
	notify *os.File   // of inotify; nil: no v2 group yet
	groups map[string]*watched
	byKey  map[int32]*watched // eventfd or watch
	// slices are those above scopes, by their directories and by their watches.
	slices  map[string]*slice
	sliceOf map[int32]*slice
	closed  bool
}

// OOM is what happened in a group.
type OOM struct {
	ID    string
	Kills uint64 // processes killed in this group so far; 0: none, since the killer is disabled and they wait
}

// watched is one group.
type watched struct {
	id        string
	dir, file string
	key       int32
	kills     uint64 // told; guarded by the watcher's mu
	v2        bool

	signals signals // of a v1 group; guarded by the watcher's mu

	above *slice // of a scope of systemd's; else nil
	// Guarded by the slice's reading: whether the scope was read when it was first
	// watched, its count, and what its slice's could not be explained by when both
	// were last read.
	begun bool
	own   uint64
	seen  int64
}

// NewWatcher has told called, from any goroutine.
func NewWatcher(told func(OOM)) *Watcher {
	return &Watcher{told: told, groups: map[string]*watched{}, byKey: map[int32]*watched{}, slices: map[string]*slice{}, sliceOf: map[int32]*slice{}}
}

// Add watches the group of a container that has had known kills. A second Add
// of the same id changes nothing. Without a memory controller there is nothing
// to watch.
func (w *Watcher) Add(id string, paths map[string]string, known uint64) error {
	x, err := w.add(id, paths, known)
	if x != nil {
		w.begin(x)
		w.look(x, 0) // what was killed before it was watched
	}
	return err
}

func (w *Watcher) add(id string, paths map[string]string, known uint64) (*watched, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.groups[id] != nil {
		return nil, nil
	}
	x := &watched{id: id, kills: known}
	var err error
	if dir := paths[""]; dir != "" && len(paths) == 1 {
		x.dir, x.file, x.v2 = dir, "memory.events", true
		err = w.addV2Locked(x)
	} else {
		x.dir, x.file = paths["memory"], "memory.oom_control"
		if x.dir == "" {
			return nil, nil
		}
		err = w.addV1Locked(x)
	}
	if err != nil {
		return nil, fmt.Errorf("watch for lack of memory in the cgroup %s: %w", x.dir, err)
	}
	if x.key == 0 { // v2 without a memory controller
		return nil, nil
	}
	w.groups[id], w.byKey[x.key] = x, x
	return x, nil
}

func (w *Watcher) addV2Locked(x *watched) error {
	if !exists(x.dir, x.file) {
		return nil
	}
	var err error
	if x.key, err = w.notifyLocked(x.dir, x.file); err != nil {
		return err
	}
	if InScope(map[string]string{"": x.dir}) {
		if err = w.addAboveLocked(x); err != nil {
			w.ignoreLocked(x.key)
		}
	}
	return err
}

// notifyLocked has inotify tell of changes of a file.
func (w *Watcher) notifyLocked(dir, file string) (key int32, err error) {
	if w.notify == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return 0, err
		}
		w.notify = os.NewFile(uintptr(fd), "inotify")
		go w.readV2(w.notify)
	}
	err = control(w.notify, func(fd int) error {
		wd, err := unix.InotifyAddWatch(fd, filepath.Join(dir, file), unix.IN_MODIFY)
		key = int32(wd)
		return err
	})
	return key, err
}

func (w *Watcher) ignoreLocked(key int32) {
	_ = control(w.notify, func(fd int) error { // EINVAL: the file is gone, and the watch with it
		_, err := unix.InotifyRmWatch(fd, uint32(key))
		return err
	})
}

func (w *Watcher) addV1Locked(x *watched) (err error) {
	if w.poll == nil {
		fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime waits for it without a thread
			unix.Close(fd)
			return err
		}
		w.poll = os.NewFile(uintptr(fd), "epoll")
		go w.readV1(w.poll)
	}
	control1, err := openRetry(filepath.Join(x.dir, x.file), unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(control1) // the kernel has its own reference
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	err = write(x.dir, "cgroup.event_control", fmt.Sprintf("%d %d", event, control1))
	if err == nil {
		err = control(w.poll, func(fd int) error {
			return unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(event)})
		})
	}
	if err != nil {
		unix.Close(event)
		return err
	}
	x.key = int32(event)
	return nil
}

// Remove ends the watch of a container that has ended. lost: the kernel killed a
// process in it, which its own group cannot tell since systemd has removed it.
func (w *Watcher) Remove(id string) (lost bool) {
	w.mu.Lock()
	x := w.groups[id]
	w.mu.Unlock()
	if x == nil {
		return false
	}
	lost = w.lost(x)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups[id] == x {
		w.removeLocked(x)
	}
	return lost
}

func (w *Watcher) removeLocked(x *watched) {
	delete(w.groups, x.id)
	delete(w.byKey, x.key)
	if !x.v2 {
		unix.Close(int(x.key)) // epoll and the kernel's list let go of it
		return
	}
	w.ignoreLocked(x.key)
	w.removeAboveLocked(x)
}

// Close ends all watches.
func (w *Watcher) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, x := range w.groups {
		w.removeLocked(x)
	}
	for _, f := range []*os.File{w.poll, w.notify} {
		if f != nil {
			f.Close()
		}
	}
}

func control(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := rc.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

func (w *Watcher) readV1(poll *os.File) {
	rc, err := poll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := rc.Read(func(fd uintptr) bool {
			got, err := unix.EpollWait(int(fd), events, 0)
			n = max(got, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil || n == 0 {
			return // closed
		}
		for _, e := range events[:n] {
			w.mu.Lock()
			x := w.byKey[e.Fd]
			if x != nil {
				x.drainLocked()
			}
			w.mu.Unlock()
			if x != nil {
				w.look(x, time.Millisecond)
			}
		}
	}
}

func (w *Watcher) readV2(notify *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return // closed
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			key, size := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[12:])
			b = b[min(len(b), unix.SizeofInotifyEvent+int(size)):]
			w.mu.Lock()
			x, s := w.byKey[key], w.sliceOf[key]
			w.mu.Unlock()
			if x != nil {
				w.look(x, 0)
			}
			if s != nil {
				s.look(w)
			}
		}
	}
}

// look reads the counter. v1 signals before it kills, so it is looked again,
// later and later, until the pause has grown to half a second.
func (w *Watcher) look(x *watched, again time.Duration) {
	text, err := read(x.dir, x.file)
	if err != nil {
		if !removed(err) && again > 0 && again < time.Second {
			time.AfterFunc(again, func() { w.look(x, 2*again) })
		}
		return
	}
	kills := field(text, "oom_kill")
	w.mu.Lock()
	more := kills > x.kills && w.groups[x.id] == x
	if more {
		x.kills = kills
	}
	if !x.v2 {
		x.explainLocked(text, more)
	}
	w.mu.Unlock()
	switch {
	case more:
		w.told(OOM{x.id, kills})
	case !x.v2 && field(text, "oom_kill_disable") == 1 && field(text, "under_oom") == 1:
		w.told(OOM{ID: x.id})
	case again > 0 && again < time.Second/2:
		time.AfterFunc(again, func() { w.look(x, 2*again) })
	}
}
