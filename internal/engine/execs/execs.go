// Package execs is the index of the processes beside containers' first ones.
package execs

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// Index has all execs, by id.
type Index struct {
	mu   sync.Mutex // guards what follows
	byID map[string]*Execution
	done map[string][]string // container to its ended ones, oldest first
}

// New makes an empty index.
func New() *Index {
	return &Index{byID: map[string]*Execution{}, done: map[string][]string{}}
}

// Get finds an exec by its id. Error: NotFound.
func (x *Index) Get(id string) (*Execution, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if v := x.byID[id]; v != nil {
		return v, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}

// Running are the ids of a container's execs that run.
func (x *Index) Running(containerID string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, v := range x.byID {
		if v.Container == containerID && v.Running {
			ids = append(ids, id)
		}
	}
	return ids
}

// Of are the execs of a container; "" are all.
func (x *Index) Of(containerID string) []*Execution {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []*Execution
	for _, v := range x.byID {
		if containerID == "" || v.Container == containerID {
			list = append(list, v)
		}
	}
	return list
}

// Set shows an exec; it returns one that is too old to keep, or "".
func (x *Index) Set(v *Execution) (old string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[v.ID] = v
	if v.Exit == nil || v.Config.Check {
		return ""
	}
	list := append(x.done[v.Container], v.ID)
	if len(list) > kept {
		old, list = list[0], list[1:]
		delete(x.byID, old)
	}
	x.done[v.Container] = list
	return old
}

// Forget takes an exec out that nobody asks for any more.
func (x *Index) Forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
}

// Claim marks an exec as running for the one who starts it; false: another did.
func (x *Index) Claim(v *Execution) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if v.Running || v.Exit != nil || x.byID[v.ID] != v {
		return false
	}
	next := *v
	next.Running = true
	x.byID[v.ID] = &next
	return true
}

// Take removes a container's execs.
func (x *Index) Take(containerID string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, v := range x.byID {
		if v.Container == containerID {
			ids = append(ids, id)
			delete(x.byID, id)
		}
	}
	delete(x.done, containerID)
	return ids
}

// Load reads the files of a folder, which is made.
func (x *Index) Load(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the folder of execs: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
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
		x.Set(v)
	}
	return nil
}

// Resolve is get for an id that may be cut short.
func (x *Index) Resolve(id string) (*Execution, error) {
	if v, err := x.Get(id); err == nil {
		return v, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var found *Execution
	for full, v := range x.byID {
		if id == "" || !strings.HasPrefix(full, id) {
			continue
		}
		if found != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage("more than one exec begins with " + id + ": write more of the id")
		}
		found = v
	}
	if found == nil {
		return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
	}
	return found, nil
}

// Began notes the process of an exec, unless its end came first.
func (x *Index) Began(id string, pid int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if v := x.byID[id]; v != nil && v.Exit == nil {
		next := *v
		next.PID = pid
		x.byID[id] = &next
	}
}
