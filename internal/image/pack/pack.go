// Package pack compresses layers on several processors at once.
package pack

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
)

const (
	blockSize = 1 << 20
	// window is how far back compressed data may refer (RFC 1951, section 2): a block
	// sees so much of the one before it, and is packed about as well as with all.
	window     = 32 << 10
	maxWorkers = 8 // each has 4 MB
)

// Gzip is a writer of one gzip member (RFC 1952) whose blocks are compressed beside
// each other, in the same bytes however many processors there are. It is used by one
// goroutine. Close must be called, also after an error.
type Gzip struct {
	to    io.Writer
	sum   uint32
	size  uint32 // modulo 2^32, as the format has it
	block *block
	idle  chan *block
	order chan *block // as they are to be written

	failed atomic.Bool
	err    error // why; the goroutine that writes sets it, and ended has it seen
	ended  sync.WaitGroup
}

// block is a part of the data on its way.
type block struct {
	in    []byte // what goes before it, then the data
	seen  int    // bytes that go before it
	last  bool
	out   bytes.Buffer
	z     *flate.Writer
	err   error
	ready chan struct{}
}

// NewGzip writes to w, from a goroutine of its own until Close returns.
func NewGzip(w io.Writer) *Gzip {
	workers := min(maxWorkers, runtime.GOMAXPROCS(0))
	g := &Gzip{to: w, idle: make(chan *block, workers+1), order: make(chan *block, workers+1)}
	for range workers + 1 { // one is filled meanwhile
		g.idle <- nil
	}
	g.block = g.next()
	g.ended.Go(g.write)
	return g
}

// next is an empty block; it waits until there is one.
func (g *Gzip) next() *block {
	b := <-g.idle
	if b == nil {
		b = &block{in: make([]byte, 0, window+blockSize), ready: make(chan struct{}, 1)}
	}
	b.in, b.seen, b.last = b.in[:0], 0, false
	b.out.Reset()
	return b
}

// Write implements io.Writer. Error: what an earlier write to the end of the chain
// gave, once it is known.
func (g *Gzip) Write(p []byte) (int, error) {
	n := len(p)
	g.sum = crc32.Update(g.sum, crc32.IEEETable, p)
	g.size += uint32(n)
	for len(p) > 0 {
		if g.failed.Load() {
			return n - len(p), g.Close()
		}
		c := min(len(p), g.block.seen+blockSize-len(g.block.in))
		g.block.in, p = append(g.block.in, p[:c]...), p[c:]
		if len(g.block.in) == g.block.seen+blockSize {
			b := g.next()
			b.in = append(b.in, g.block.in[len(g.block.in)-window:]...)
			b.seen = window
			g.send()
			g.block = b
		}
	}
	return n, nil
}

// send has the block compressed, and written when those before it are.
func (g *Gzip) send() {
	b := g.block
	g.order <- b
	go func() {
		b.err = b.pack()
		b.ready <- struct{}{}
	}()
}

func (b *block) pack() (err error) {
	if b.z == nil {
		if b.z, err = flate.NewWriterDict(&b.out, flate.DefaultCompression, b.in[:b.seen]); err != nil {
			return err
		}
	} else {
		b.z.ResetDict(&b.out, b.in[:b.seen])
	}
	if _, err := b.z.Write(b.in[b.seen:]); err != nil {
		return err
	}
	if b.last {
		return b.z.Close()
	}
	return b.z.Flush() // to a whole byte
}

// header is without a name and a time, so that it is always the same.
var header = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}

// write writes what is compressed; after an error it lets the rest go by.
func (g *Gzip) write() {
	_, err := g.to.Write(header)
	for b := range g.order {
		<-b.ready
		if err == nil {
			err = b.err
		}
		if err == nil {
			_, err = g.to.Write(b.out.Bytes())
		}
		if err != nil {
			g.err = err
			g.failed.Store(true)
		}
		g.idle <- b
	}
	if err == nil {
		end := binary.LittleEndian.AppendUint32(nil, g.sum) // Close has set both
		_, err = g.to.Write(binary.LittleEndian.AppendUint32(end, g.size))
	}
	g.err = err
}

// Close writes what is left and waits until nothing is written any more. Error: the
// first of all writes; called again, the same.
func (g *Gzip) Close() error {
	if g.block != nil {
		g.block.last = true
		g.send()
		g.block = nil
		close(g.order)
	}
	g.ended.Wait()
	return g.err
}
