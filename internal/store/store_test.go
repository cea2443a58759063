package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestStoreKeepsWhatItAnswered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hezi.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "in use by another hezid (pid ") {
		t.Fatalf("second open: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := db.Put("containers", fmt.Sprint(i), i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := db.Delete("containers", "7"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := db.Put("containers", "x", 1); err == nil {
		t.Fatal("put after close")
	}
	if db, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n := 0
	if err := db.Each("containers", func(string, []byte) error { n++; return nil }); err != nil || n != 49 {
		t.Fatalf("%d values, %v", n, err)
	}
}
