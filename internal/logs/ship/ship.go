// Package ship sends the lines of containers with a remote log driver (journald,
// syslog, fluentd, gelf) to their receivers. The keeper writes the lines to a file
// as it does for every container, and that file is the queue: no container ever
// waits for a receiver, and what a receiver has not taken is sent when it is back,
// also after a restart of the engine, as long as the file's rotation has it.
//
// The place up to which lines were sent is in a file of the container:
//
//	CONTAINER/shipped.json   {"First": TIME, "Offset": N}, see logs.Place
//
// A removed container's file that was not sent whole is kept until it is:
//
//	DIR/ID/container.json    what is sent, and where to (Container)
//	DIR/ID/local-logs/       the log's files
//	DIR/ID/shipped.json
//
// A line is sent at least once: what was not acknowledged when a connection broke
// or the engine was killed is sent again.
package ship

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"hezi/internal/logs"
	"hezi/internal/logs/options"
)

// Container is what is sent of a container, and where to.
type Container struct {
	Driver   string
	Info     options.Info // its LogPath is the file's
	MaxFiles int
}

func (c *Container) config() logs.Config {
	return logs.Config{Driver: options.Local, Path: c.Info.LogPath, MaxFiles: c.MaxFiles}
}

// folder holds the place: the one above that of the files, whose changes are watched.
func (c *Container) folder() string { return filepath.Dir(filepath.Dir(c.Info.LogPath)) }

// Room sends the lines of all containers.
type Room struct {
	dir     string
	log     *slog.Logger
	watcher *fsnotify.Watcher // nil: the files are looked at now and then
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup

	mu    sync.Mutex // guards ships, never held while one is waited for
	ships map[string]*ship

	leaving  sync.Mutex // held by bound
	maxLeft  int        // containers in dir
	maxBytes int64      // of their files
}

// Open makes the room, and goes on with what removed containers left in dir.
func Open(dir string, log *slog.Logger) (*Room, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the folder of logs that are not sent yet: %w", err)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("logs that are not sent yet: %w", err)
	}
	r := &Room{dir: dir, log: log, ships: map[string]*ship{}, maxLeft: maxLeft, maxBytes: maxBytes}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if r.watcher, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("log files cannot be watched: they are looked at once a second", "error", err)
	} else {
		r.work.Go(r.watch)
	}
	for _, d := range list {
		var c Container
		raw, err := os.ReadFile(filepath.Join(dir, d.Name(), leftFile))
		if err == nil {
			err = json.Unmarshal(raw, &c)
		}
		if err != nil { // a removal that was cut off before anything was moved
			log.Warn("what is left of a container's log cannot be sent", "container", d.Name(), "error", errors.Join(err, os.RemoveAll(filepath.Join(dir, d.Name()))))
			continue
		}
		r.start(c, true, nil)
	}
	return r, nil
}

// watch wakes the ships of files that changed.
func (r *Room) watch() {
	for {
		select {
		case ev, ok := <-r.watcher.Events:
			if !ok {
				return
			}
			r.wake(filepath.Dir(ev.Name))
		case _, ok := <-r.watcher.Errors: // an overflow: anything may have changed
			if !ok {
				return
			}
			r.wake("")
		}
	}
}

// wake wakes the ship whose files are in dir; "" all.
func (r *Room) wake(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.ships {
		if dir == "" || s.watched == dir {
			poke(s.more)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Follow sends what the container's file has and gets, to the receiver that c
// says; one that is followed already goes on with c.
func (r *Room) Follow(c Container) {
	var before <-chan struct{}
	if old := r.take(c.Info.ContainerID); old != nil {
		old.cancel()
		before = old.done
	}
	r.start(c, false, before)
}

// start makes a ship that begins when before is closed; nil: at once.
func (r *Room) start(c Container, left bool, before <-chan struct{}) {
	s := &ship{room: r, c: c, left: left, before: before, more: make(chan struct{}, 1), done: make(chan struct{}), watched: filepath.Dir(c.Info.LogPath)}
	s.ctx, s.cancel = context.WithCancel(r.ctx)
	r.mu.Lock()
	r.ships[c.Info.ContainerID] = s
	r.mu.Unlock()
	r.work.Go(s.run)
}

func (r *Room) take(id string) *ship {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.ships[id]
	delete(r.ships, id)
	return s
}

// Release takes over the file of a container that is about to be removed, if it
// was not sent whole.
func (r *Room) Release(id string) error {
	s := r.take(id)
	if s == nil {
		return nil
	}
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(slowest):
		return fmt.Errorf("the log of container %s is not kept until it is sent: the receiver holds up a message", id)
	}
	if s.idle() {
		return nil
	}
	c := s.c
	to := filepath.Join(r.dir, id)
	c.Info.LogPath = filepath.Join(to, filepath.Base(s.watched), filepath.Base(s.c.Info.LogPath))
	raw, err := json.Marshal(c)
	if err == nil {
		err = os.MkdirAll(to, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, leftFile), raw, 0o600)
	}
	if err == nil { // before the log is there: an engine that is killed in between sends nothing twice
		err = savePlace(to, s.sent)
	}
	if err == nil {
		err = os.Rename(s.watched, filepath.Dir(c.Info.LogPath))
	}
	if err != nil {
		return fmt.Errorf("keep the log of container %s, which its receiver has not taken yet: %w", id, errors.Join(err, os.RemoveAll(to)))
	}
	r.start(c, true, nil)
	r.bound()
	return nil
}

// bound gives up what the containers that were removed first have left, where it is
// more than dir may hold: a receiver that never comes back must not fill the disk.
func (r *Room) bound() {
	r.leaving.Lock()
	defer r.leaving.Unlock()
	type left struct {
		id    string
		since time.Time
		bytes int64
	}
	var all []left
	var bytes int64
	list, err := os.ReadDir(r.dir)
	for _, d := range list {
		l := left{id: d.Name()}
		if st, err := os.Stat(filepath.Join(r.dir, l.id, leftFile)); err == nil {
			l.since = st.ModTime()
		}
		err = errors.Join(err, filepath.WalkDir(filepath.Join(r.dir, l.id), func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // it was sent meanwhile
			}
			if st, err := d.Info(); err == nil && st.Mode().IsRegular() {
				l.bytes += st.Size()
			}
			return nil
		}))
		bytes += l.bytes
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b left) int { return a.since.Compare(b.since) })
	for len(all) > 1 && (len(all) > r.maxLeft || bytes > r.maxBytes) {
		l := all[0]
		all, bytes = all[1:], bytes-l.bytes
		r.mu.Lock()
		s := r.ships[l.id]
		if s != nil && s.left {
			delete(r.ships, l.id)
			s.cancel()
		}
		r.mu.Unlock()
		err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir, l.id)))
		r.log.Warn("lines of a removed container are given up: too much waits for receivers that do not take it", "container", l.id, "bytes", l.bytes)
	}
	if err != nil {
		r.log.Warn("logs that are not sent yet may be more than there should be", "error", err)
	}
}

// Close stops; what is not sent is sent by the next engine.
func (r *Room) Close() error {
	r.cancel()
	var err error
	if r.watcher != nil {
		err = r.watcher.Close()
	}
	r.work.Wait()
	return err
}

// sender is a connection to a receiver.
type sender interface {
	// add puts a line into the batch.
	add(*message) error
	// flush sends the batch and returns once the receiver, or its system where the
	// protocol has no answer, has it all. After an error the sender is closed, and
	// the batch is sent again by another.
	flush(ctx context.Context) error
	close()
}

// message is a line, or a part of a long one.
type message struct {
	*logs.Entry
	text []byte // without the newline
	part *part  // nil: the whole line
}

// part is Docker's account of a line that is sent in several messages.
type part struct {
	id      string
	ordinal int // from 1
	last    bool
}

const (
	batchSize = 256 << 10 // bytes of records
	placeFile = "shipped.json"
	leftFile  = "container.json"
	maxLeft   = 1000
	maxBytes  = 1 << 30
	slowest   = 10 * time.Second // between two tries to reach a receiver
	blind     = time.Second      // between two looks at a file that is not watched
)

// loadPlace reads where a ship was; the zero place when it has not begun.
func loadPlace(folder string) (p logs.Place, err error) {
	raw, err := os.ReadFile(filepath.Join(folder, placeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	return p, err
}

func savePlace(folder string, p logs.Place) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp := filepath.Join(folder, placeFile+".new")
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(folder, placeFile))
}
