// Package execs is the index of the processes beside containers' first ones.
package execs

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// Config of POST /containers/{id}/exec.
type Config struct {
	User, WorkingDir            string
	Env, Cmd                    []string
	Tty, Privileged             bool
	Stdin, Stdout, Stderr       bool
	DetachKeys                  string
	ConsoleHeight, ConsoleWidth uint
	KillOnDisconnect            bool // ours: end the process with its client
	AtOnce                      bool // ours: started before anybody hears of it, so stored then
	Check                       bool // ours: a health check, which is not stored and forgotten at its end
}

// kept bounds the execs of one container that are over and still
// answered; the oldest go first.
const kept = 64

// Execution is one exec; a value is replaced, never changed. It is also a file
// on the exec root, so that a client that waits gets its exit code from the
// next hezid.
type Execution struct {
	ID, Container string
	Config        Config
	Running       bool
	PID           int
	Exit          *int
	Made          time.Time
}

// Index has all execs, by id, and their files.
type Index struct {
	dir string // of the files

	mu   sync.Mutex // guards what follows
	byID map[string]*entry
	done map[string][]string // container to its ended ones, oldest first
}

type entry struct {
	latest atomic.Pointer[Execution]

	mu   sync.Mutex // one transition at a time, with its file
	gone bool
}

// New makes an empty index with its files in dir, which Load makes.
func New(dir string) *Index {
	return &Index{dir: dir, byID: map[string]*entry{}, done: map[string][]string{}}
}

func (x *Index) file(id string) string { return filepath.Join(x.dir, id+".json") }

func notFound(id string) error {
	return errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}

func (x *Index) entry(id string) (*entry, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := x.byID[id]; n != nil {
		return n, nil
	}
	return nil, notFound(id)
}

// Get finds an exec by its id. Error: NotFound.
func (x *Index) Get(id string) (*Execution, error) {
	n, err := x.entry(id)
	if err != nil {
		return nil, err
	}
	return n.latest.Load(), nil
}

// Running are the ids of a container's execs that run.
func (x *Index) Running(containerID string) []string {
	var ids []string
	for _, v := range x.Of(containerID) {
		if v.Running {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// Of are the execs of a container; "" are all.
func (x *Index) Of(containerID string) []*Execution {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []*Execution
	for _, n := range x.byID {
		if v := n.latest.Load(); containerID == "" || v.Container == containerID {
			list = append(list, v)
		}
	}
	return list
}

// Add shows a new exec, which is stored first unless it is started at once.
func (x *Index) Add(v *Execution) error {
	if !v.Config.AtOnce {
		if err := x.store(v); err != nil {
			return err
		}
	}
	x.insert(v)
	return nil
}

func (x *Index) insert(v *Execution) {
	n := new(entry)
	n.latest.Store(v)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[v.ID] = n
}

// Start makes an exec a running one. Errors: NotFound, and Conflict for one that
// runs or ran.
func (x *Index) Start(id string) error {
	return x.change(id, func(v *Execution) error {
		if v.Running || v.Exit != nil {
			return errdefs.ErrConflict.WithMessage(fmt.Sprintf("exec command %s has already run: make another", id))
		}
		v.Running = true
		return nil
	})
}

var errNothing = errors.New("nothing changed")

// End stores the exit of an exec. False: it had ended before, or is not there.
func (x *Index) End(id string, code int) (bool, error) {
	err := x.change(id, func(v *Execution) error {
		if v.Exit != nil {
			return errNothing
		}
		v.Running, v.PID, v.Exit = false, 0, &code
		return nil
	})
	if errors.Is(err, errNothing) || errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	v, err := x.Get(id)
	if err != nil {
		return true, nil // its container was removed meanwhile
	}
	if v.Config.Check {
		x.Forget(id)
		return true, nil
	}
	return true, x.keep(v)
}

// Began notes the process of an exec, unless its end came first.
func (x *Index) Began(id string, pid int) {
	n, err := x.entry(id)
	if err != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if v := *n.latest.Load(); v.Exit == nil {
		v.PID = pid
		n.latest.Store(&v)
	}
}

// change stores what f makes of an exec, then shows it. An error of f leaves the
// exec as it was.
func (x *Index) change(id string, f func(*Execution) error) error {
	n, err := x.entry(id)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		return notFound(id)
	}
	v := *n.latest.Load()
	if err := f(&v); err != nil {
		return err
	}
	if err := x.store(&v); err != nil {
		return err
	}
	n.latest.Store(&v)
	return nil
}

func (x *Index) store(v *Execution) error {
	if v.Config.Check {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	staged := x.file(v.ID) + ".new"
	if err = os.WriteFile(staged, b, 0o600); err == nil {
		err = os.Rename(staged, x.file(v.ID))
	}
	if err != nil {
		if undo := os.Remove(staged); !errors.Is(undo, os.ErrNotExist) {
			err = errors.Join(err, undo)
		}
		return fmt.Errorf("store the exec: %w", err)
	}
	return nil
}

// keep notes that an exec is over, and drops the oldest that is too many.
func (x *Index) keep(v *Execution) error {
	x.mu.Lock()
	var old *entry
	if x.byID[v.ID] != nil {
		list := append(x.done[v.Container], v.ID)
		if len(list) > kept {
			old = x.byID[list[0]]
			delete(x.byID, list[0])
			list = list[1:]
		}
		x.done[v.Container] = list
	}
	x.mu.Unlock()
	if old == nil {
		return nil
	}
	return x.drop(old)
}

// drop removes the file of an exec that is out of the index, and lets no
// transition that found it there before write another.
func (x *Index) drop(n *entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = true
	if err := os.Remove(x.file(n.latest.Load().ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the record of an exec: %w", err)
	}
	return nil
}

// Forget takes an exec out that nobody asks for any more.
func (x *Index) Forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
}

// Take removes a container's execs.
func (x *Index) Take(containerID string) error {
	x.mu.Lock()
	var list []*entry
	for id, n := range x.byID {
		if n.latest.Load().Container == containerID {
			list = append(list, n)
			delete(x.byID, id)
		}
	}
	delete(x.done, containerID)
	x.mu.Unlock()
	var errs []error
	for _, n := range list {
		errs = append(errs, x.drop(n))
	}
	return errors.Join(errs...)
}

// Load reads the files; their folder is made.
func (x *Index) Load(log *slog.Logger) error {
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return fmt.Errorf("the folder of execs: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(x.dir, "*.json"))
	if err != nil {
		return err
	}
	var ended []*Execution
	for _, f := range files {
		v := new(Execution)
		b, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(b, v)
		}
		if err != nil {
			log.Warn("the record of an exec cannot be read", "file", f, "error", err)
			continue
		}
		x.insert(v)
		if v.Exit != nil {
			ended = append(ended, v)
		}
	}
	slices.SortFunc(ended, func(a, b *Execution) int { return a.Made.Compare(b.Made) })
	var errs []error
	for _, v := range ended {
		errs = append(errs, x.keep(v))
	}
	return errors.Join(errs...)
}

// Resolve is Get for an id that may be cut short.
func (x *Index) Resolve(id string) (*Execution, error) {
	if v, err := x.Get(id); err == nil {
		return v, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var found *Execution
	for full, n := range x.byID {
		if id == "" || !strings.HasPrefix(full, id) {
			continue
		}
		if found != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage("more than one exec begins with " + id + ": write more of the id")
		}
		found = n.latest.Load()
	}
	if found == nil {
		return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
	}
	return found, nil
}
