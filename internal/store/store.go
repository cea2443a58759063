// Package store is the one metadata database of an engine, DATAROOT/hezi.db.
// A change is on disk when Put or Delete returns; changes that arrive while a
// commit is under way share the next one.
//
//	hezi.db
//	├── containers/   id   -> engine's container record (JSON)
//	└── volumes/      name -> volume record (JSON)
//
// Rooms that need transactions of their own (images) use Bolt.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// DB is the open database.
type DB struct {
	bolt  *bolt.DB
	queue chan change
	done  chan struct{}

	mu     sync.RWMutex // held for reading while a change is handed to the writer
	closed bool

	release atomic.Pointer[func() bool]
}

type change struct {
	bucket, key string
	value       []byte // nil deletes
	result      chan error
}

// Open opens or creates the database. When another process has it open, the
// error names that process.
func Open(path string) (*DB, error) {
	b, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 500 * time.Millisecond, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		holder, _ := os.ReadFile(path + ".pid")
		pid := strings.TrimSpace(string(holder))
		if pid == "" {
			pid = "unknown"
		}
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the database %s is in use by another hezid (pid %s): stop it first, or use another --data-root", path, pid))
	}
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	if err := os.WriteFile(path+".pid", fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		b.Close()
		return nil, fmt.Errorf("note who holds the database: %w", err)
	}
	db := &DB{bolt: b, queue: make(chan change, 128), done: make(chan struct{})}
	go db.write()
	return db, nil
}

// Bolt is the database itself, for a room with transactions of its own.
func (db *DB) Bolt() *bolt.DB { return db.bolt }

// SetRelease wires who gives up space for a deletion on a full disk, and says
// whether there was any.
func (db *DB) SetRelease(f func() bool) { db.release.Store(&f) }

// Close writes what is under way and lets another process open the database.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	close(db.queue)
	db.mu.Unlock()
	<-db.done
	return db.bolt.Close()
}

// Put stores v as JSON; it is durable at return.
func (db *DB) Put(bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("store %s/%s: %w", bucket, key, err)
	}
	return db.submit(change{bucket: bucket, key: key, value: b})
}

// Delete removes a value, durably; an absent one is no error.
func (db *DB) Delete(bucket, key string) error { return db.submit(change{bucket: bucket, key: key}) }

// Each calls f with every value of a bucket. The value is valid during the call.
func (db *DB) Each(bucket string, f func(key string, value []byte) error) error {
	return db.bolt.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { return f(string(k), v) })
	})
}

func (db *DB) submit(c change) error {
	c.result = make(chan error, 1)
	db.mu.RLock()
	if db.closed {
		db.mu.RUnlock()
		return errdefs.ErrUnavailable.WithMessage("the database is closed: hezid is stopping")
	}
	db.queue <- c
	db.mu.RUnlock()
	return <-c.result
}

// write commits what waits together: no timer, the commit itself is the delay.
func (db *DB) write() {
	defer close(db.done)
	for first := range db.queue {
		batch := []change{first}
		for len(db.queue) > 0 && len(batch) < cap(db.queue) {
			c, ok := <-db.queue
			if !ok {
				break
			}
			batch = append(batch, c)
		}
		apply := func(tx *bolt.Tx) error {
			for _, c := range batch {
				if err := c.apply(tx); err != nil {
					return fmt.Errorf("store %s/%s: %w", c.bucket, c.key, err)
				}
			}
			return nil
		}
		err := db.bolt.Update(apply)
		if errors.Is(err, syscall.ENOSPC) && slices.ContainsFunc(batch, func(c change) bool { return c.value == nil }) {
			if release := db.release.Load(); release != nil && (*release)() {
				err = db.bolt.Update(apply)
			}
		}
		for _, c := range batch {
			c.result <- err
		}
	}
}

func (c change) apply(tx *bolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte(c.bucket))
	if err != nil {
		return err
	}
	if c.value == nil {
		return b.Delete([]byte(c.key))
	}
	return b.Put([]byte(c.key), c.value)
}
