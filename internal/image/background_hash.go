package image

import (
	"hash"
	"sync"
)

// backgroundHash makes a digest beside whoever writes to it.
type backgroundHash struct {
	sum   hash.Hash
	part  []byte
	full  chan []byte
	empty chan []byte
	ended chan struct{}
	once  sync.Once
}

func newBackgroundHash(h hash.Hash) *backgroundHash {
	b := &backgroundHash{sum: h, full: make(chan []byte, aheadParts), empty: make(chan []byte, aheadParts), ended: make(chan struct{})}
	for range aheadParts {
		b.empty <- nil
	}
	go func() {
		defer close(b.ended)
		for part := range b.full {
			h.Write(part) // never fails (hash.Hash)
			b.empty <- part[:0]
		}
	}()
	return b
}

func (b *backgroundHash) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if b.part == nil {
			if b.part = <-b.empty; b.part == nil {
				b.part = make([]byte, 0, aheadSize)
			}
		}
		c := min(len(p), cap(b.part)-len(b.part))
		b.part, p = append(b.part, p[:c]...), p[c:]
		if len(b.part) == cap(b.part) {
			b.full <- b.part
			b.part = nil
		}
	}
	return n, nil
}

// end waits for what was written. Nothing is written after it.
func (b *backgroundHash) end() hash.Hash {
	b.once.Do(func() {
		if len(b.part) > 0 {
			b.full <- b.part
		}
		close(b.full)
		<-b.ended
	})
	return b.sum
}
