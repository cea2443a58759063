package image

import (
	"os"
	"testing"
)

// A service that is closed twice closes no descriptor that somebody else has got
// by then.
func TestFlusherClosedTwice(t *testing.T) {
	dir := t.TempDir()
	f, err := newFlusher(dir)
	if err != nil {
		t.Fatal(err)
	}
	f.close()
	var others []*os.File
	for range 8 {
		o, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		others = append(others, o)
	}
	f.close()
	for _, o := range others {
		if _, err := o.Stat(); err != nil {
			t.Error(err)
		}
	}
}
