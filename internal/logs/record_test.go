package logs

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestParseOwn: the short way reads what is written as the library does, and
// leaves all else to it.
func TestParseOwn(t *testing.T) {
	lines := []string{"", "\n", "plain\n", "a \"quoted\" \\back\\ \t tab\r\n", "\x00\x1f\x7f\n", "é ü 盒子 🐳\n", "\ufffd real\n", "\xff\xfe broken \x80\n", `\u0041 is no escape`, "ends with \\"}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		b := make([]byte, r.IntN(300))
		for i := range b {
			b[i] = byte(r.Uint32())
			if r.IntN(2) == 0 {
				b[i] = byte(' ' + r.IntN(90))
			}
		}
		lines = append(lines, string(b))
	}
	for _, line := range lines {
		in := Entry{Stream: "stdout", Time: time.Unix(1700000000, 123456789).UTC(), Line: []byte(line)}
		if len(line)%2 == 1 {
			in.Stream = "stderr"
		}
		rec := appendRecord(nil, &in, nil)
		got, ok := new(decoder).own(rec)
		want, wantOK := parseAny(rec)
		if !ok || !wantOK || !bytes.Equal(got.Line, want.Line) || got.Stream != want.Stream || !got.Time.Equal(want.Time) {
			t.Errorf("%q: %+v %v, want %+v %v", line, got, ok, want, wantOK)
		}
		if !bytes.Equal(got.Line, in.Line) {
			t.Errorf("%q is read as %q", in.Line, got.Line)
		}
		for cut := 1; cut < len(rec)-2; cut += 7 { // a torn record is none
			if _, ok := parseRecord(rec[:cut]); ok {
				t.Errorf("%q is taken for a record", rec[:cut])
			}
		}
	}
	for _, other := range []string{
		`{"stream":"stdout","log":"x\n","time":"2026-01-02T03:04:05Z"}`, `{"log":"x\/\b\n","stream":"stderr","time":"2026-01-02T03:04:05.5+01:00"}`,
		`{"log":"x","stream":"stdout","attrs":{"a":"b"},"time":"2026-01-02T03:04:05Z"}`, "{\"log\":\"\\ud83d\\udc33\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}\n",
	} {
		got, ok := parseRecord([]byte(other))
		want, wantOK := parseAny([]byte(other))
		if !ok || !wantOK || !bytes.Equal(got.Line, want.Line) || got.Stream != want.Stream || !got.Time.Equal(want.Time) || len(got.Attrs) != len(want.Attrs) {
			t.Errorf("%s: %+v %v, want %+v %v", other, got, ok, want, wantOK)
		}
	}
}

// A record is what encoding/json makes of it, wherever in it a byte is that it
// escapes, with time's own form of the time.
func TestRecordIsTheLibrarys(t *testing.T) {
	for _, ns := range []int{0, 1, 10, 120_000_000, 123_456_789, 999_999_999, 1_000} {
		at := time.Unix(1700000000, int64(ns)).UTC()
		if got, want := string(appendFraction([]byte(at.Format("2006-01-02T15:04:05")), ns))+"Z", at.Format(time.RFC3339Nano); got != want {
			t.Errorf("%d ns: %s, want %s", ns, got, want)
		}
	}
	for b := range 256 {
		for at := range 20 {
			text := bytes.Repeat([]byte("x"), 20)
			text[at] = byte(b)
			want, err := json.Marshal(string(text))
			if err != nil {
				t.Fatal(err)
			}
			got, _ := appendString(nil, text)
			if b == '\b' || b == '\f' || b == '\t' { // Docker does not write their short forms
				continue
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("byte %d at %d: %s, want %s", b, at, got, want)
			}
		}
	}
}

// Attributes are read the short way too, those of each record.
func TestAttributesOfEachRecord(t *testing.T) {
	d := new(decoder)
	for _, attrs := range []map[string]string{{"a": "b"}, {"a": "b"}, {"a": `},"time":"`, "b": "\""}, nil, {"c": ""}} {
		rec := appendRecord(nil, &Entry{Stream: "stderr", Time: time.Unix(1700000000, 5), Line: []byte("x\n")}, encodeAttrs(attrs))
		got, ok := d.own(rec)
		if !ok || !maps.Equal(got.Attrs, attrs) || string(got.Line) != "x\n" || got.Time.UnixNano() != 1700000000*1e9+5 {
			t.Errorf("%s is read as %+v, %v", rec, got, ok)
		}
	}
}

// Whole says what Append takes.
func TestWholeIsWhatIsAppended(t *testing.T) {
	w, err := Open(Config{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	long := strings.Repeat("x", MaxLine)
	for _, text := range []string{"", "a", "a\n", "a\nb", long, long[1:], long[1:] + "\n", long + "\n", long + long + "a", "a\n" + long + "b"} {
		for _, final := range []bool{false, true} {
			n, full, err := w.Append("stdout", w.Stamp(), []byte(text), final, false)
			if err != nil || full || int64(n) != Whole([]byte(text), final) {
				t.Errorf("%d bytes, final %v: %d are appended, %d expected, %v, %v", len(text), final, n, Whole([]byte(text), final), full, err)
			}
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	w, err := Open(Config{Driver: "json-file", Path: os.DevNull}, 0)
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(strings.Repeat(strings.Repeat("abcdefghi", 7)+"\n", 1024))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, _, err := w.Append("stdout", w.Stamp(), text, false, true); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	rec := appendRecord(nil, &Entry{Stream: "stdout", Time: time.Now(), Line: []byte("a line of output as programs write them, 70 bytes or so in its length\n")}, nil)
	for name, f := range map[string]func([]byte) (Entry, bool){"own": new(decoder).own, "any": parseAny} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, ok := f(rec); !ok {
					b.Fatal("no record")
				}
			}
		})
	}
}
