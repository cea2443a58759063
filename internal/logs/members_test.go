package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packedLog is a log whose one file is compressed, in several members or, old, as files
// were that older versions made; with what it says and when each record was written.
func packedLog(t *testing.T, old bool) (cfg Config, text string, entries []Entry) {
	t.Helper()
	cfg = Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxFiles: 2}
	var raw bytes.Buffer
	enc, at := encoder{}, time.Unix(1700000000, 0)
	for i := range 40000 {
		e := Entry{Stream: "stdout", Time: at.Add(time.Duration(i) * time.Millisecond), Line: fmt.Appendf(nil, "line %d\n", i)}
		if i%5000 == 0 {
			e.Line = append(bytes.Repeat([]byte("x"), 100_000), e.Line...) // more than the reader's buffer
		}
		entries = append(entries, e)
		raw.Write(enc.record(nil, e.Stream, e.Time, e.Line))
	}
	var b strings.Builder
	for _, e := range entries {
		b.Write(e.Line)
	}
	var out bytes.Buffer
	if old {
		z := gzip.NewWriter(&out)
		z.Write(raw.Bytes())
		z.Close()
	} else if err := pack(&out, bytes.NewReader(raw.Bytes())); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := io.ReadAll(z); err != nil || !bytes.Equal(back, raw.Bytes()) {
		t.Fatalf("gzip has %d of %d bytes back, %v", len(back), raw.Len(), err)
	}
	if err := os.WriteFile(cfg.Path+".1.gz", out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg, b.String(), entries
}

// A compressed file is read from any place, and its parts know their times.
func TestPackedIsReadFromAnywhere(t *testing.T) {
	for _, old := range []bool{false, true} {
		cfg, text, entries := packedLog(t, old)
		if got := read(t, cfg, nil, Query{Tail: -1}); got != text {
			t.Fatalf("old %v: %d bytes, want %d", old, len(got), len(text))
		}
		for _, n := range []int{0, 1, 2, 5001, 20000, 39999, 40000, 50000} {
			var want strings.Builder
			for _, e := range entries[max(len(entries)-n, 0):] {
				want.Write(e.Line)
			}
			if got := read(t, cfg, nil, Query{Tail: n}); got != want.String() {
				t.Errorf("old %v: the last %d are %d bytes, want %d", old, n, len(got), want.Len())
			}
			if n == 0 || n > len(entries) {
				continue
			}
			if got := read(t, cfg, nil, Query{Tail: -1, Since: entries[len(entries)-n].Time}); got != want.String() {
				t.Errorf("old %v: since the last %d are %d bytes, want %d", old, n, len(got), want.Len())
			}
		}
	}
}

// The end of a compressed file, and what was written since a time, is read without what
// comes before: that may be broken.
func TestPackedIsReadInPart(t *testing.T) {
	cfg, text, entries := packedLog(t, false)
	b, err := os.ReadFile(cfg.Path + ".1.gz")
	if err != nil {
		t.Fatal(err)
	}
	copy(b[memberHeader:], bytes.Repeat([]byte{0xff}, 100))
	if err := os.WriteFile(cfg.Path+".1.gz", b, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]Query{"tail": {Tail: 3}, "since": {Tail: -1, Since: entries[len(entries)-3].Time}} {
		var got []byte
		q.Stdout = true
		damage, err := readAll(cfg, nil, q, func(e *Entry) error { got = append(got, e.Line...); return nil })
		if err != nil || damage.String() != "" || !strings.HasSuffix(text, string(got)) || bytes.Count(got, []byte("\n")) != 3 {
			t.Errorf("%s: %q, %v, %s", name, got, err, damage.String())
		}
	}
	f, err := openFile(cfg.Path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	defer f.f.Close()
	if n := len(f.members()); n < 3 {
		t.Errorf("it has %d members", n)
	}
	s, err := OpenSnapshot(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Read(context.Background(), Query{Stdout: true, Tail: -1}, func(*Entry) error { return nil }); err != nil || s.Damaged.String() == "" {
		t.Errorf("the broken part is not said: %v", err)
	}
}
