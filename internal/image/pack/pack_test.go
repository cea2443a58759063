package pack

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// text is half words and half noise.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		if r.IntN(2) == 0 {
			b.WriteString(strings.Repeat("layers of images ", r.IntN(5000)))
			continue
		}
		noise := make([]byte, r.IntN(50_000))
		for i := range noise {
			noise[i] = byte(r.Uint32())
		}
		b.Write(noise)
	}
	return b.Bytes()[:n]
}

func packed(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	g := NewGzip(&out)
	r := rand.New(rand.NewPCG(3, 4))
	for rest := plain; len(rest) > 0; {
		n := min(len(rest), r.IntN(3*blockSize))
		if got, err := g.Write(rest[:n]); err != nil || got != n {
			t.Fatal(got, err)
		}
		rest = rest[n:]
	}
	if err := errors.Join(g.Close(), g.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What comes out is one member that Go's own library reads, and as small as what that makes.
func TestGzip(t *testing.T) {
	for _, n := range []int{0, 1, window, blockSize - 1, blockSize, blockSize + 1, 2 * blockSize, 9*blockSize + 17} {
		plain := text(n)
		out := packed(t, plain)
		in := bytes.NewReader(out)
		z, err := gzip.NewReader(in)
		if err != nil {
			t.Fatal(n, err)
		}
		z.Multistream(false)
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, plain) || in.Len() > 0 {
			t.Errorf("of %d bytes: %d, %v, and %d left", n, len(got), err, in.Len())
		}
		var alone bytes.Buffer
		w := gzip.NewWriter(&alone)
		_, _ = w.Write(plain)
		_ = w.Close()
		if len(out) > alone.Len()*105/100+32 {
			t.Errorf("%d bytes became %d, by the library %d", n, len(out), alone.Len())
		}
	}
}

// The digest of a layer does not depend on the machine.
func TestSameOnAllMachines(t *testing.T) {
	plain := text(5*blockSize + 3)
	many := packed(t, plain)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if !bytes.Equal(packed(t, plain), many) {
		t.Error("one processor makes other bytes than several")
	}
}

// full takes so many bytes.
type full struct{ left int }

var errFull = errors.New("no space left")

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// A disk that is full is said, soon, and no goroutine stays.
func TestFull(t *testing.T) {
	noise := make([]byte, 20*blockSize)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, space := range []int{0, 5, 3 * blockSize, len(packed(t, noise)) - 1} {
		synctest.Test(t, func(t *testing.T) { // fails if one does
			g := NewGzip(&full{left: space})
			_, err := io.Copy(g, bytes.NewReader(noise))
			if space < blockSize && !errors.Is(err, errFull) {
				t.Errorf("space for %d: %v while it is written", space, err)
			}
			if err := g.Close(); !errors.Is(err, errFull) {
				t.Errorf("space for %d: %v at the end", space, err)
			}
		})
	}
}
