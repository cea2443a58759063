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
	"slices"
	"strings"
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
	store   store // of images; nil if there is none

	warnings []string // what of the images was left out
}

// Open opens the data root at path. containerd is the root of the containerd that has
// its images; if it is empty, the places where it may be are looked at.
func Open(path, containerd string) (_ *Root, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	at, err := openFolder(path)
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
	all, err := r.readable()
	if err != nil {
		return nil, refused(path, err)
	}
	for _, c := range all {
		if c.runs() {
			return nil, fmt.Errorf("the container %s still runs, since Docker has live-restore, and may write to volumes: start Docker, stop the container (docker stop %s), and then Docker", c.Name[1:], c.Name[1:])
		}
	}
	if err := r.chooseStore(containerd, youngest(all)); err != nil {
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
	if r.store != nil {
		r.store.close()
	}
	_ = r.at.Close() // only read
}

// openQuietly opens to read, and leaves the time of access where that is allowed.
func openQuietly(root *os.Root, name string, flags int) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // another's
		return root.OpenFile(name, os.O_RDONLY|flags, 0)
	}
	return f, err
}

// openFile opens a file below root to read it. What is no file would block or never end.
func openFile(root *os.Root, name string) (*os.File, error) {
	f, err := openQuietly(root, name, unix.O_NONBLOCK)
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

// openFolder opens a folder to read what is in it.
func openFolder(path string) (*os.Root, error) {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() { // a pipe would block
		err = fmt.Errorf("%s is no folder", path)
	}
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(path)
}

// subRoot is openFolder for a folder in another.
func subRoot(root *os.Root, name string) (*os.Root, error) {
	info, err := root.Stat(name)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no folder", filepath.Join(root.Name(), name))
	}
	if err != nil {
		return nil, err
	}
	return root.OpenRoot(name)
}

// readDir lists a folder by name. What is none is an error, and never blocks.
func readDir(root *os.Root, name string) ([]fs.DirEntry, error) {
	f, err := openQuietly(root, name, unix.O_DIRECTORY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out, err := f.ReadDir(-1)
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, err
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

// maxCopy bounds what copyBolt copies, in bytes.
const maxCopy = 128 << 20

// copyBolt opens a copy of a database that somebody writes. It may be torn.
func copyBolt(root *os.Root, name string) (db *bolt.DB, err error) {
	defer damaged(root, name, &err)
	body, err := readFile(root, name, maxCopy)
	if err != nil {
		return nil, err
	}
	return bolt.Open(name, 0, &bolt.Options{ReadOnly: true, OpenFile: func(string, int, os.FileMode) (*os.File, error) {
		fd, err := unix.MemfdCreate("copy", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, os.NewSyscallError("memfd_create", err)
		}
		f := os.NewFile(uintptr(fd), "copy")
		if _, err := f.Write(body); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}})
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
