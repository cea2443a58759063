package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

func entry(s string) Entry {
	return Entry{Stream: "stdout", Time: time.Unix(1700000000, 5), Line: []byte(s)}
}

func readAll(cfg Config, w *Writer, q Query, fn func(*Entry) error) (Damage, error) {
	s, err := OpenSnapshot(cfg, w)
	if err != nil {
		return Damage{}, err
	}
	defer s.Close()
	err = s.Read(context.Background(), q, fn)
	return s.Damaged, err
}

// put appends entries as the keeper does.
func put(t *testing.T, w *Writer, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		for len(e.Line) > 0 {
			n, full, err := w.Append(e.Stream, e.Time, e.Line, true, false)
			if err != nil {
				t.Fatal(err)
			}
			if e.Line = e.Line[n:]; !full {
				continue
			}
			if err := w.Rotate(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// appendRecord appends one record alone.
func appendRecord(dst []byte, e *Entry, attrs []byte) []byte {
	enc := encoder{attrs: attrs}
	return enc.record(dst, e.Stream, e.Time, e.Line)
}

func read(t *testing.T, cfg Config, w *Writer, q Query) string {
	t.Helper()
	var b bytes.Buffer
	q.Stdout, q.Stderr = true, true
	if _, err := readAll(cfg, w, q, func(e *Entry) error { b.Write(e.Line); return nil }); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRecordIsDockersAndExact(t *testing.T) {
	e := entry("hi \"<\x01>\"\n")
	got := string(appendRecord(nil, &e, encodeAttrs(map[string]string{"a": "b"})))
	want := `{"log":"hi \"\u003c\u0001\u003e\"\n","stream":"stdout","attrs":{"a":"b"},"time":"2023-11-14T22:13:20.000000005Z"}` + "\n"
	if got != want {
		t.Fatalf("record %s\nwant %s", got, want)
	}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	e.Line = all
	back, ok := parseRecord(appendRecord(nil, &e, nil))
	if !ok || !bytes.Equal(back.Line, all) {
		t.Fatalf("bytes do not come back: %q", back.Line)
	}
}

func TestTornRecordIsCut(t *testing.T) {
	cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log")}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	put(t, w, entry("a\n"))
	w.Close()
	f, _ := os.OpenFile(cfg.Path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"log":"torn`)
	f.Close()
	if w, err = Open(cfg, 0); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	put(t, w, entry("b\n"))
	if got := read(t, cfg, w, Query{Tail: -1}); got != "a\nb\n" {
		t.Fatalf("got %q", got)
	}
}

func TestRotateTailFollow(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprint("compress=", compress), func(t *testing.T) {
			cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 2000, MaxFiles: 100, Compress: compress}
			w, err := Open(cfg, 0)
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			var followed bytes.Buffer
			done := make(chan error, 1)
			go func() {
				_, err := w.Follow(context.Background(), Pos{}, Query{Stdout: true}, func(e *Entry) error { followed.Write(e.Line); return nil }, func() error { return nil })
				done <- err
			}()
			for i := range 500 {
				e := entry(fmt.Sprintf("line %d\n", i))
				e.Time = time.Unix(int64(i), 0)
				want.Write(e.Line)
				put(t, w, e)
			}
			if got := read(t, cfg, w, Query{Tail: -1}); got != want.String() {
				t.Fatalf("read %d bytes, want %d", len(got), want.Len())
			}
			lines := bytes.SplitAfter(want.Bytes(), []byte("\n"))
			for _, n := range []int{0, 1, 3, 40, 499, 500, 600} {
				k := max(len(lines)-1-n, 0)
				if got := read(t, cfg, w, Query{Tail: n}); got != string(bytes.Join(lines[k:], nil)) {
					t.Fatalf("tail %d: %d bytes: %.80q", n, len(got), got)
				}
			}
			if got := read(t, cfg, w, Query{Tail: -1, Since: time.Unix(490, 0), Until: time.Unix(491, 0)}); got != "line 490\nline 491\n" {
				t.Fatalf("since/until: %q", got)
			}
			w.Close()
			if err := <-done; err != nil || followed.String() != want.String() {
				t.Fatalf("follow: %v, %d bytes of %d", err, followed.Len(), want.Len())
			}
		})
	}
}

func TestSinceBisects(t *testing.T) {
	cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log")}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var es []Entry
	for i := range 20000 {
		e := entry(fmt.Sprintf("%d\n", i))
		e.Time = time.Unix(int64(i), 0)
		es = append(es, e)
	}
	put(t, w, es...)
	if got := read(t, cfg, w, Query{Tail: -1, Since: time.Unix(19998, 0)}); got != "19998\n19999\n" {
		t.Fatalf("since: %.100q", got)
	}
}

func FuzzReader(f *testing.F) {
	e := entry("x\n")
	f.Add(appendRecord(nil, &e, nil), 1)
	f.Add([]byte("{\"log\":\n\n{}{\n"), 3)
	f.Add(bytes.Repeat([]byte("z"), 70000), 2)
	f.Fuzz(func(t *testing.T, data []byte, tail int) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, q := range []Query{{Tail: -1}, {Tail: tail}, {Tail: -1, Since: time.Unix(1700000000, 0)}, {Tail: tail, Grep: regexp.MustCompile("x|z")}} {
			if _, err := readAll(Config{Path: path}, nil, q, func(*Entry) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A line without end is looked at once, up to a bound, and not again with each record.
func TestGrepOfALineWithoutEnd(t *testing.T) {
	g := newGrep(regexp.MustCompile("never|end"))
	part := Entry{Stream: "stdout", Line: bytes.Repeat([]byte("x"), MaxLine)}
	began, n := time.Now(), 0
	count := func(*Entry) error { n++; return nil }
	for range 20_000 {
		if err := g.pass(&part, count); err != nil {
			t.Fatal(err)
		}
	}
	if h := g.held["stdout"]; time.Since(began) > 10*time.Second || len(h.text) > maxJoined || len(h.entries) > maxJoined/MaxLine {
		t.Errorf("%d bytes and %d records are held after %v", len(h.text), len(h.entries), time.Since(began))
	}
	for _, text := range []string{"x\n", "the end\n"} {
		if err := g.pass(&Entry{Stream: "stdout", Line: []byte(text)}, count); err != nil {
			t.Fatal(err)
		}
	}
	if n != 1 {
		t.Errorf("%d records match, want 1", n)
	}
}
