package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// Where a record is:
//
//	--rm                          a file on the exec root, which a reboot empties as it should
//	running, no restart policy    the same kind of file at once, the database behind it
//	everything else               the database, on disk when the change is announced
//
// A file is newer than the database's record of the same container.

func (e *records) transient() string { return filepath.Join(e.o.ExecRoot, "containers") }

func (e *records) file(id string) string { return filepath.Join(e.transient(), id+".json") }

// folder is where a container's log and its files of /etc are.
func (e *records) folder(id string) string { return filepath.Join(e.o.DataRoot, "containers", id) }

// etcFile is the host's path of a file of a container's /etc. Those of --rm
// containers need no disk.
func (e *records) etcFile(r *record, name string) string {
	if r.HostConfig.AutoRemove {
		return filepath.Join(e.transient(), r.ID, name)
	}
	return filepath.Join(e.folder(r.ID), name)
}

func (e *records) loadAll() error {
	for _, dir := range []string{e.transient(), filepath.Join(e.o.ExecRoot, "health"), filepath.Join(e.o.DataRoot, "containers")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("the folder of containers: %w", err)
		}
	}
	records := map[string]*record{}
	load := func(b []byte) error {
		r := new(record)
		if err := json.Unmarshal(b, r); err != nil {
			return fmt.Errorf("the record of a container: %w", err)
		}
		records[r.ID] = r
		return nil
	}
	if err := e.o.Store.Each(bucket, func(_ string, b []byte) error { return load(b) }); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(e.transient(), "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			err = load(b)
		}
		if err != nil {
			return fmt.Errorf("the record %s: %w", f, err)
		}
	}
	for _, r := range records {
		if _, err := e.names.Reserve(r.ID, r.Name); err != nil {
			return err
		}
		if len(r.bridgeLinks()) > 0 {
			e.linking.Store(true)
		}
		if m := r.Users; m != nil && strings.HasPrefix(string(r.HostConfig.UsernsMode), "auto") {
			if err := e.o.Users.Claim(r.usersOf(), m); err != nil {
				e.o.Log.Error("two containers have the same ids on the host: make one of them anew", "error", err)
			}
		}
		if err := r.Labels.Reserve(); err != nil {
			e.o.Log.Error("the SELinux label of a container cannot be kept from being given again", "container", r.ID, "error", err)
		}
		e.add(newEntry(r))
	}
	return nil
}

func newEntry(r *record) *entry {
	c := &entry{work: make(chan struct{}, 1)}
	r.vital = &c.vital
	c.latest.Store(r)
	return c
}

func (e *records) add(c *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.boxes[c.latest.Load().ID] = c
}

// save stores the record of a container and then shows it.
func (e *records) save(c *entry, r *record) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	switch {
	case r.HostConfig.AutoRemove:
		if err := e.saveFile(r); err != nil {
			return err
		}
	case r.running() && r.HostConfig.RestartPolicy.IsNone():
		if err := e.saveFile(r); err != nil {
			return err
		}
		e.work.Go(func() { e.saveBehind(c, r) })
	default:
		if err := e.o.Store.Put(bucket, r.ID, r); err != nil {
			return err
		}
		if err := e.dropFile(r.ID); err != nil {
			return err
		}
	}
	c.latest.Store(r)
	return nil
}

// saveBehind puts a record that is in a file into the database too.
func (e *records) saveBehind(c *entry, r *record) {
	c.saving.Lock()
	defer c.saving.Unlock()
	if c.latest.Load() != r {
		return
	}
	if err := e.o.Store.Put(bucket, r.ID, r); err != nil {
		e.o.Log.Warn("the state of a container is only on the exec root", "container", r.ID, "error", err)
	}
}

func (e *records) saveFile(r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := e.file(r.ID)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return errors.Join(fmt.Errorf("store the container: %w", err), os.Remove(path+".new"))
	}
	if err := os.Rename(path+".new", path); err != nil {
		return errors.Join(fmt.Errorf("store the container: %w", err), os.Remove(path+".new"))
	}
	return nil
}

func (e *records) dropFile(id string) error {
	if err := os.Remove(e.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store the container: %w", err)
	}
	return nil
}

// drop forgets a container's record.
func (e *records) drop(c *entry) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	r := *c.latest.Load()
	r.State = container.StateRemoving
	if !r.HostConfig.AutoRemove {
		if err := e.o.Store.Delete(bucket, r.ID); err != nil {
			return err
		}
	}
	if err := e.dropFile(r.ID); err != nil {
		return err
	}
	c.latest.Store(&r)
	return nil
}
