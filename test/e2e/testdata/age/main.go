// Age makes the images of a database older: their names, and their last uses.
package main

import (
	"encoding/binary"
	"log"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	bolt "go.etcd.io/bbolt"
)

func main() {
	by, err := time.ParseDuration(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	db, err := bolt.Open(os.Args[1], 0o600, nil)
	if err != nil {
		log.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		images := tx.Bucket([]byte("v1")).Bucket([]byte("hezi")).Bucket([]byte("images"))
		if err := images.ForEachBucket(func(k []byte) error {
			var created, updated time.Time
			if err := boltutil.ReadTimestamps(images.Bucket(k), &created, &updated); err != nil {
				return err
			}
			return boltutil.WriteTimestamps(images.Bucket(k), created.Add(-by), updated.Add(-by))
		}); err != nil {
			return err
		}
		used := tx.Bucket([]byte("hezi-used"))
		if used == nil {
			return nil
		}
		ages := map[string][]byte{}
		if err := used.ForEach(func(k, v []byte) error {
			at, _ := binary.Varint(v)
			ages[string(k)] = binary.AppendVarint(nil, at-int64(by/time.Second))
			return nil
		}); err != nil {
			return err
		}
		for k, v := range ages {
			if err := used.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := db.Close(); err != nil {
		log.Fatal(err)
	}
}
