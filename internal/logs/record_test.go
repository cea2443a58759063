package logs

import (
	"bytes"
	"math/rand/v2"
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
		got, ok := parseOwn(rec)
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

func BenchmarkParse(b *testing.B) {
	rec := appendRecord(nil, &Entry{Stream: "stdout", Time: time.Now(), Line: []byte("a line of output as programs write them, 70 bytes or so in its length\n")}, nil)
	for name, f := range map[string]func([]byte) (Entry, bool){"own": parseOwn, "any": parseAny} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, ok := f(rec); !ok {
					b.Fatal("no record")
				}
			}
		})
	}
}
