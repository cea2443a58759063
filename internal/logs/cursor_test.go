package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func drain(t *testing.T, c *Cursor, limit int) (got string, lost bool) {
	t.Helper()
	var b strings.Builder
	for {
		gone, more, err := c.Next(context.Background(), limit, func(e *Entry) { b.Write(e.Line) })
		if err != nil {
			t.Fatal(err)
		}
		lost = lost || gone
		if !more {
			return b.String(), lost
		}
	}
}

// numbered are n entries with times of their own.
func numbered(from, n int) (es []Entry, text string) {
	for i := range n {
		e := entry(fmt.Sprintf("line %d\n", from+i))
		e.Time = time.Unix(int64(from+i), 0)
		es = append(es, e)
		text += string(e.Line)
	}
	return es, text
}

// Every record comes once, over rotations, compressions, and a cursor that is
// made again at its place after each step.
func TestCursorReadsOn(t *testing.T) {
	for _, compress := range []bool{false, true} {
		cfg := Config{Driver: "local", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 700, MaxFiles: 50}
		w, err := Open(cfg, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		kept, again := NewCursor(cfg, Place{}), Place{}
		if got, _ := drain(t, kept, 1000); got != "" {
			t.Fatalf("an empty log has %q", got)
		}
		for i := range 40 {
			es, want := numbered(i*7, 7)
			put(t, w, es...)
			if compress {
				for name := w.nextToPack(); name != ""; name = w.nextToPack() {
					f, err := os.Open(name)
					if err != nil {
						t.Fatal(err)
					}
					if err := w.packFile(f); err != nil {
						t.Fatal(err)
					}
					f.Close()
				}
			}
			if got, lost := drain(t, kept, 150+i*10); got != want || lost {
				t.Fatalf("step %d: %q, want %q, lost %v", i, got, want, lost)
			}
			c := NewCursor(cfg, again)
			if got, lost := drain(t, c, 300); got != want || lost {
				t.Fatalf("step %d, made again: %q, want %q, lost %v", i, got, want, lost)
			}
			again = c.Place()
			c.Close()
		}
		kept.Close()
	}
}

func TestCursorSaysWhatIsLost(t *testing.T) {
	cfg := Config{Driver: "local", Path: filepath.Join(t.TempDir(), "log"), MaxSize: 700, MaxFiles: 2}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	es, text := numbered(0, 5)
	put(t, w, es...)
	c := NewCursor(cfg, Place{})
	defer c.Close()
	if got, lost := drain(t, c, 1<<20); got != text || lost {
		t.Fatalf("%q, lost %v", got, lost)
	}
	es, text = numbered(5, 100)
	put(t, w, es...)
	got, lost := drain(t, c, 1<<20)
	if !lost || got == text || !strings.HasPrefix(got, "line 5\n") || !strings.HasSuffix(got, "line 103\nline 104\n") { // it has the file open that is gone
		t.Errorf("lost %v, %q", lost, got)
	}
	other := NewCursor(cfg, Place{First: time.Unix(1, 0), Offset: 3})
	defer other.Close()
	if got, lost := drain(t, other, 1<<20); !lost || !strings.HasSuffix(got, "line 104\n") {
		t.Errorf("lost %v, %q", lost, got)
	}
}

// A keeper that was killed cuts its last write off and writes it again.
func TestCursorBehindAnUndo(t *testing.T) {
	cfg := Config{Driver: "local", Path: filepath.Join(t.TempDir(), "log"), MaxFiles: 1}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	es, text := numbered(0, 6)
	put(t, w, es[:3]...)
	off := w.End().Off
	put(t, w, es[3:]...)
	c := NewCursor(cfg, Place{})
	defer c.Close()
	if got, _ := drain(t, c, 1<<20); got != text {
		t.Fatalf("%q", got)
	}
	if err := w.Undo(off); err != nil {
		t.Fatal(err)
	}
	for i := range es[3:] {
		es[3+i].Time = es[3+i].Time.Add(123456789) // longer records
	}
	put(t, w, es[3:]...)
	more, want := numbered(6, 1)
	put(t, w, more...)
	if got, _ := drain(t, c, 1<<20); !strings.HasSuffix(got, want) || !strings.HasSuffix(text+want, got) {
		t.Errorf("%q", got)
	}
}

// A clock that is set back makes a file whose times are before those of the one it
// follows.
func TestCursorOverAClockThatIsSetBack(t *testing.T) {
	cfg := Config{Driver: "local", Path: filepath.Join(t.TempDir(), "log"), MaxFiles: 3}
	w, err := Open(cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	kept := NewCursor(cfg, Place{})
	defer kept.Close()
	again := Place{}
	for _, from := range []int{1000, 500, 2000, 100} {
		es, want := numbered(from, 5)
		if from != 1000 {
			if err := w.Rotate(); err != nil {
				t.Fatal(err)
			}
		}
		put(t, w, es...)
		if got, lost := drain(t, kept, 1<<20); got != want || lost {
			t.Errorf("from %d: %q, lost %v", from, got, lost)
		}
		c := NewCursor(cfg, again)
		if got, lost := drain(t, c, 1<<20); got != want || lost {
			t.Errorf("from %d, made again: %q, lost %v", from, got, lost)
		}
		again = c.Place()
		c.Close()
	}
	gone := NewCursor(cfg, Place{First: time.Unix(3000, 0), Offset: 3})
	defer gone.Close()
	if got, lost := drain(t, gone, 1<<20); !lost || !strings.HasPrefix(got, "line 500\n") || !strings.HasSuffix(got, "line 104\n") {
		t.Errorf("%q, lost %v", got, lost)
	}
}
