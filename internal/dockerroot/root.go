package dockerroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// maxJSON bounds a file of JSON in bytes.
const maxJSON = 64 << 20

// errBusy is the error of a database that another program has open.
var errBusy = errors.New("another program has it open")

// Root is a data root. It holds Docker's own lock, so that dockerd does not start
// on it before Close.
type Root struct {
	path    string
	at      *os.Root
	volumes *bolt.DB
	stores  []store
}

// Open opens the data root at path. containerd is the root of the containerd that has
// its images; if it is empty, the places where it may be are looked at.
func Open(path, containerd string) (_ *Root, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	at, err := os.OpenRoot(path)
	if err != nil {
		return nil, refused(path, err)
	}
	r := &Root{path: path, at: at}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	r.volumes, err = openBolt(at, "volumes/metadata.db")
	switch {
	case errors.Is(err, errBusy):
		return nil, fmt.Errorf("a Docker daemon runs on %s: stop it (systemctl stop docker.socket docker), or leave --data-root away to ask the daemon itself", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is no data root of Docker's: it has no volumes/metadata.db; on a usual machine it is /var/lib/docker", path)
	case err != nil:
		return nil, refused(path, err)
	}
	graphs, err := openGraphs(at)
	if err != nil {
		return nil, err
	}
	for _, g := range graphs {
		r.stores = append(r.stores, g)
	}
	places := []string{filepath.Join(path, "containerd/daemon"), filepath.Join(filepath.Dir(path), "containerd")}
	if containerd != "" {
		places = []string{containerd}
	}
	if err := r.openContents(places, containerd != "" || len(graphs) == 0 || r.snapshots()); err != nil {
		return nil, err
	}
	return r, nil
}

// refused explains why something of a data root cannot be read.
func refused(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot read Docker's data root %s: %w: only root may: sudo hezi system import-docker --data-root %s", path, err, path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no data root of Docker's at %s: %w", path, err)
	}
	return fmt.Errorf("cannot read Docker's data root %s: %w", path, err)
}

// Close lets Docker have its data root.
func (r *Root) Close() {
	if r.volumes != nil {
		_ = r.volumes.Close() // only read
	}
	for _, s := range r.stores {
		s.close()
	}
	_ = r.at.Close() // only read
}

// openFile opens a file below root to read it. What is no file would block or never end.
func openFile(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", f.Name())
	}
	if err != nil {
		_ = f.Close() // only read
		return nil, err
	}
	return f, nil
}

func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := openFile(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	return body, err
}

func readJSON(root *os.Root, name string, out any) error {
	body, err := readFile(root, name, maxJSON)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s is damaged: %w", filepath.Join(root.Name(), name), err)
	}
	return nil
}

// openBolt opens a database to read it, and has a lock on it until it is closed.
func openBolt(root *os.Root, name string) (db *bolt.DB, err error) {
	defer damaged(root, name, &err)
	db, err = bolt.Open(name, 0, &bolt.Options{
		ReadOnly: true, Timeout: 200 * time.Millisecond,
		OpenFile: func(name string, _ int, _ os.FileMode) (*os.File, error) { return openFile(root, name) },
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, errBusy
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: %w", filepath.Join(root.Name(), name), err)
	}
	return db, err
}

// view reads a database, which may be damaged.
func view(root *os.Root, name string, db *bolt.DB, f func(*bolt.Tx) error) (err error) {
	defer damaged(root, name, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return db.View(f)
}

// damaged makes an error of what a database panics with that is not as it should be.
func damaged(root *os.Root, name string, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%s is damaged: %v", filepath.Join(root.Name(), name), p)
	}
}
