package image

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// usedBucket of images.db: an image's digest -> when it was last used, Unix
// seconds (varint). It is beside containerd's buckets.
const usedBucket = "hezi-used"

// usedPause is how long a use may be known in memory only.
const usedPause = 30 * time.Second

// uses remembers when a container of an image was last created, started,
// entered by exec, or removed.
type uses struct {
	names *index
	db    *bolt.DB

	mu   sync.Mutex // guards what follows
	at   map[digest.Digest]int64
	news map[digest.Digest]int64 // not on disk yet
}

func openUses(names *index, db *bolt.DB) (*uses, error) {
	u := &uses{names: names, db: db}
	return u, u.load()
}

func (u *uses) load() error {
	u.at, u.news = map[digest.Digest]int64{}, map[digest.Digest]int64{}
	err := u.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(usedBucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			at, _ := binary.Varint(v)
			u.at[digest.Digest(k)] = at
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("read when images were used: %w", err)
	}
	return nil
}

// Touch notes that an image is used now. It costs no disk write.
func (s *Service) Touch(id digest.Digest) {
	now := time.Now().Unix()
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	if s.uses.at[id] != now {
		s.uses.at[id], s.uses.news[id] = now, now
	}
}

// LastUsed is when images were last used, by their ids: when a container of
// them was, or when they got a name, by a pull or otherwise.
func (s Upkeep) LastUsed(ctx context.Context) (map[string]time.Time, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]time.Time, len(c.byDigest))
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	for id, same := range c.byDigest {
		var last time.Time
		if at, ok := s.uses.at[id]; ok {
			last = time.Unix(at, 0)
		}
		for _, i := range same {
			if i.UpdatedAt.After(last) {
				last = i.UpdatedAt
			}
		}
		out[id.String()] = last
	}
	return out, nil
}

// write puts on disk what is only in memory, and forgets images that are
// gone.
func (u *uses) write(ctx context.Context) error {
	c, err := u.names.catalog(ctx)
	if err != nil {
		return err
	}
	u.mu.Lock()
	news := maps.Clone(u.news)
	clear(u.news)
	var gone []digest.Digest
	for id := range u.at {
		if len(c.byDigest[id]) == 0 {
			gone = append(gone, id)
			delete(u.at, id)
			delete(news, id)
		}
	}
	u.mu.Unlock()
	if len(news)+len(gone) == 0 {
		return nil
	}
	err = u.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(usedBucket))
		if err != nil {
			return err
		}
		for id, at := range news {
			if err := b.Put([]byte(id), binary.AppendVarint(nil, at)); err != nil {
				return err
			}
		}
		for _, id := range gone {
			if err := b.Delete([]byte(id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note when images were used: %w", err)
	}
	return nil
}

// keep writes in batches until ctx ends.
func (u *uses) keep(ctx context.Context) {
	for tick := time.NewTicker(usedPause); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
			if err := u.write(ctx); err != nil && ctx.Err() == nil {
				u.names.log.Warn("it could not be stored when images were used", "error", err)
			}
		}
	}
}
