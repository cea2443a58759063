package term

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

func attachment(p []byte) *Attachment {
	return &Attachment{Conn: client.HijackedResponse{Reader: bufio.NewReader(bytes.NewReader(p))}}
}

func header(kind byte, n int) []byte {
	return []byte{kind, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// Frames of every size, cut anywhere, give what Docker's own reader gives.
func TestFramesAreThoseOfStdCopy(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		var stream []byte
		for range rnd.IntN(6) {
			n := []int{0, 1, 7, 4095, 4096, 4097, 70000, 200000}[rnd.IntN(8)]
			body := make([]byte, n)
			for i := range body {
				body[i] = byte(rnd.Uint32())
			}
			stream = append(append(stream, header(byte(rnd.IntN(3)), n)...), body...)
		}
		if round%3 == 0 && len(stream) > 0 {
			stream = stream[:rnd.IntN(len(stream))]
		}
		var out, err, wantOut, wantErr bytes.Buffer
		if _, e := stdcopy.StdCopy(&wantOut, &wantErr, bytes.NewReader(stream)); e != nil {
			t.Fatal(e)
		}
		a := attachment(nil)
		a.Conn.Reader = bufio.NewReader(iotest.HalfReader(bytes.NewReader(stream)))
		if e := a.demultiplex(&out, &err); e != nil {
			t.Fatal(e)
		}
		// What of a frame came before the connection ended is shown too.
		if !bytes.HasPrefix(out.Bytes(), wantOut.Bytes()) || !bytes.HasPrefix(err.Bytes(), wantErr.Bytes()) {
			t.Fatalf("round %d: %d and %d bytes, want %d and %d", round, out.Len(), err.Len(), wantOut.Len(), wantErr.Len())
		}
		if round%3 != 0 && (out.Len() != wantOut.Len() || err.Len() != wantErr.Len()) {
			t.Fatalf("round %d: %d and %d bytes, want %d and %d", round, out.Len(), err.Len(), wantOut.Len(), wantErr.Len())
		}
		if a.Exit != nil {
			t.Fatal("an exit code from nowhere")
		}
	}
}

func TestFramesAboutTheStream(t *testing.T) {
	a := attachment(append(append(header(1, 2), "hi"...), append(header(4, 4), 0, 0, 0, 42)...))
	var out bytes.Buffer
	if err := a.demultiplex(&out, &out); err != nil || out.String() != "hi" || a.Exit == nil || *a.Exit != 42 {
		t.Errorf("%q, exit %v, %v", &out, a.Exit, err)
	}
	for want, stream := range map[string][]byte{
		"error from daemon in stream: no disk": append(header(3, 7), "no disk"...),
		"a message of 2147483647 bytes":        header(4, 1<<31-1),
		"unknown kind 9":                       header(9, 1),
	} {
		if err := attachment(stream).demultiplex(&out, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// said are writes, each to one of two streams.
type said struct {
	all  *[]string
	name string
}

func (s said) Write(b []byte) (int, error) {
	*s.all = append(*s.all, s.name+string(b))
	return len(b), nil
}

// Short frames that came together are written together, in the order of both streams,
// and before a wait for more.
func TestShortFramesAreJoined(t *testing.T) {
	var writes []string
	frame := func(kind byte, text string) []byte { return append(header(kind, len(text)), text...) }
	first := slices.Concat(frame(1, "a"), frame(1, "b"), frame(2, "c"), frame(2, "d"), frame(1, "e"))
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		done <- Demultiplex(r, said{&writes, "out "}, said{&writes, "err "})
	}()
	w.Write(first)
	w.Write(frame(1, "f")[:4]) // taken once the first were: what is held waits for nothing
	w.Write(frame(1, "f")[4:])
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(writes, ", "); got != "out ab, err cd, out e, out f" {
		t.Errorf("written: %s", got)
	}
}
