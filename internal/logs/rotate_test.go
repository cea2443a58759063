package logs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// No file is larger than max-size, there are never more than max-file, and what
// they hold together is the end of what was written, without a gap.
func TestSizeAndCountAreExact(t *testing.T) {
	for _, files := range []int{1, 2, 5} {
		cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 1000, MaxFiles: files}
		w, err := Open(cfg, 0)
		if err != nil {
			t.Fatal(err)
		}
		var es []Entry
		var want strings.Builder
		for i := range 300 {
			e := entry(strings.Repeat("x", i%97) + strconv.Itoa(i) + "\n")
			want.Write(e.Line)
			es = append(es, e)
		}
		put(t, w, es...)
		names, err := filepath.Glob(cfg.Path + "*")
		if err != nil || len(names) != files {
			t.Fatalf("%d files, want %d: %v", len(names), files, err)
		}
		for _, name := range names {
			if st, err := os.Stat(name); err != nil || st.Size() > 1000 {
				t.Errorf("%s has %d bytes, %v", name, st.Size(), err)
			}
		}
		if got := read(t, cfg, w, Query{Tail: -1}); got == "" || !strings.HasSuffix(want.String(), got) {
			t.Errorf("%d files: %.100q is not the end of what was written", files, got)
		}
		w.Close()
	}
}

// A rotation that is cut off between any two of its steps loses no line that
// whole rotations would have kept, and writes none twice.
func TestRotationCutOffAnywhere(t *testing.T) {
	const files = 4
	lines := func(w *Writer, cfg Config, n int, want *bytes.Buffer) {
		for range n {
			e := entry(fmt.Sprintf("line %d\n", want.Len()))
			want.Write(e.Line)
			put(t, w, e)
		}
	}
	for cut := range files {
		cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 300, MaxFiles: files}
		w, err := Open(cfg, 0)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		lines(w, cfg, 40, &want)
		before := read(t, cfg, w, Query{Tail: -1})
		w.Close()
		// The steps of a rotation up to cut: 3 is deleted, 2 becomes 3, 1 becomes 2, ...
		for i, step := range []func() error{
			func() error { return os.Remove(cfg.Path + ".3") },
			func() error { return os.Rename(cfg.Path+".2", cfg.Path+".3") },
			func() error { return os.Rename(cfg.Path+".1", cfg.Path+".2") },
			func() error { return os.Rename(cfg.Path, cfg.Path+".1") },
		} {
			if i > cut {
				break
			}
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if w, err = Open(cfg, 0); err != nil {
			t.Fatal(err)
		}
		first := read(t, cfg, w, Query{Tail: -1})
		if !strings.HasSuffix(before, first) || first == "" {
			t.Fatalf("cut at %d: %q is not the end of %q", cut, first, before)
		}
		if cut < files-1 { // else it was whole
			if err := w.Rotate(); err != nil { // which goes on with it
				t.Fatal(err)
			}
		}
		if got := read(t, cfg, w, Query{Tail: -1}); got != first {
			t.Fatalf("cut at %d: the next rotation lost lines: %q, had %q", cut, got, first)
		}
		lines(w, cfg, 1, &want)
		if got := read(t, cfg, w, Query{Tail: -1}); !strings.HasSuffix(want.String(), got) {
			t.Fatalf("cut at %d: %q", cut, got)
		}
		w.Close()
	}
}

func TestCompressedInTheBackground(t *testing.T) {
	cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 500, MaxFiles: 5, Compress: true}
	if err := os.WriteFile(cfg.Path+".pack", []byte("left"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var es []Entry
	for i := range 30 {
		es = append(es, entry(fmt.Sprintf("%d\n", i)))
	}
	put(t, w, es...)
	want := read(t, cfg, w, Query{Tail: -1})
	for range 600 {
		if names, _ := filepath.Glob(cfg.Path + ".*"); len(names) == 4 && strings.Count(strings.Join(names, " "), ".gz") == 4 {
			if got := read(t, cfg, w, Query{Tail: -1}); got != want {
				t.Fatalf("%q, want %q", got, want)
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	names, _ := filepath.Glob(cfg.Path + "*")
	t.Fatalf("not compressed: %q", names)
}

func TestTruncatedByHand(t *testing.T) {
	for _, files := range []int{1, 3} {
		for how, meddle := range map[string]func(string) error{
			"truncated": func(p string) error { return os.Truncate(p, 0) }, "deleted": os.Remove, "cut": func(p string) error { return os.Truncate(p, 100) }} {
			cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 100000, MaxFiles: files}
			w, err := Open(cfg, 0)
			if err != nil {
				t.Fatal(err)
			}
			put(t, w, entry("one\n"), entry("two\n"))
			if err := meddle(cfg.Path); err != nil {
				t.Fatal(err)
			}
			put(t, w, entry("three\n"))
			want := "three\n"
			if how == "cut" {
				want = "one\nthree\n"
			}
			if got := read(t, cfg, w, Query{Tail: -1}); got != want {
				t.Errorf("%s, %d files: %q", how, files, got)
			}
			w.Close()
		}
	}
}

func TestDamageIsSaid(t *testing.T) {
	cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxFiles: 3}
	good := func(s string) []byte { e := entry(s); return appendRecord(nil, &e, nil) }
	write := func(name string, parts ...[]byte) {
		if err := os.WriteFile(name, bytes.Join(parts, nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cfg.Path+".2.gz", []byte("no archive"))
	write(cfg.Path+".1", good("a\n"), []byte("\x00\x00 rubbish\n"), good("b\n"))
	write(cfg.Path, good("c\n"), good("torn\n")[:20])
	var got strings.Builder
	d, err := readAll(cfg, nil, Query{Stdout: true, Tail: -1}, func(e *Entry) error { got.Write(e.Line); return nil })
	if err != nil || got.String() != "a\nb\nc\n" {
		t.Fatalf("%q, %v", got.String(), err)
	}
	if d.Records != 3 || !strings.Contains(d.String(), "log.2.gz could not be read") {
		t.Errorf("%+v: %s", d, &d)
	}
	if err := os.Remove(cfg.Path + ".2.gz"); err != nil {
		t.Fatal(err)
	}
	d, err = readAll(cfg, nil, Query{Stdout: true, Tail: -1}, func(*Entry) error { return nil })
	if want := fmt.Sprintf("2 lines of the log are no records, the first at byte %d of %s.1", len(good("a\n")), cfg.Path); err != nil || !strings.HasPrefix(d.String(), want) {
		t.Errorf("%s, %v", &d, err)
	}
	write(cfg.Path+".1", good("a\n"))
	write(cfg.Path, good("c\n"))
	if d, err = readAll(cfg, nil, Query{Stdout: true, Tail: -1}, func(*Entry) error { return nil }); err != nil || d.String() != "" {
		t.Errorf("a whole log: %s, %v", &d, err)
	}
}

func TestGrepSeesWholeLines(t *testing.T) {
	cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxFiles: 1}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	long := strings.Repeat("y", MaxLine-2) + "nee"
	e2 := entry("from the other stream\n")
	e2.Stream = "stderr"
	put(t, w, entry("needle 1\n"), entry("hay\n"), entry(long[:MaxLine]), e2, entry(long[MaxLine:]+"dle 2\n"), entry("needle 3\n"), entry("hay"))
	got := read(t, cfg, w, Query{Tail: -1, Grep: regexp.MustCompile("needle [0-9]$")})
	if want := "needle 1\n" + long + "dle 2\n" + "needle 3\n"; got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	if got := read(t, cfg, w, Query{Tail: 1, Grep: regexp.MustCompile("^needle")}); got != "needle 3\n" {
		t.Errorf("the last match: %q", got)
	}
	if got := read(t, cfg, w, Query{Tail: -1, Grep: regexp.MustCompile("^hay$")}); got != "hay\nhay" {
		t.Errorf("a line without end: %q", got)
	}
}

func TestStampsGrow(t *testing.T) {
	w := &Writer{}
	last := time.Time{}
	for range 10000 {
		now := w.Stamp()
		if !now.After(last) {
			t.Fatalf("%v after %v", now, last)
		}
		last = now
	}
}

// --since opens no file that ended before.
func TestSinceSkipsFiles(t *testing.T) {
	cfg := Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 2000, MaxFiles: 50}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range 400 {
		e := entry(fmt.Sprintf("%d\n", i))
		e.Time = time.Unix(int64(i), 0)
		put(t, w, e)
	}
	if err := os.WriteFile(cfg.Path+".9", []byte("rubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	d, err := readAll(cfg, w, Query{Stdout: true, Tail: -1, Since: time.Unix(397, 0)}, func(e *Entry) error { got.Write(e.Line); return nil })
	if err != nil || got.String() != "397\n398\n399\n" || d.Records != 0 {
		t.Errorf("%q, %+v, %v", got.String(), d, err)
	}
}
