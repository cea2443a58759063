package merged

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
)

func frame(stream byte, text string) []byte {
	h := []byte{stream, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(h[4:], uint32(len(text)))
	return append(h, text...)
}

func at(sec int, text string) string {
	return fmt.Sprintf("2026-01-02T03:04:%02d.000000001Z %s", sec, text)
}

func TestMergedByTime(t *testing.T) {
	web := bytes.Join([][]byte{frame(1, at(1, "one\n")), frame(1, at(3, "half ")), frame(2, at(4, "oops\n")), frame(1, at(5, "whole\n"))}, nil)
	tty := at(2, "two\r\n") + at(6, "six\r\n")
	for _, follow := range []bool{false, true} {
		var out, errs strings.Builder
		err := Show([]Source{{Name: "web", Log: bytes.NewReader(web)}, {Name: "db-1", Terminal: true, Log: strings.NewReader(tty)}},
			Options{Out: &out, Err: &errs, Follow: follow})
		if want := "web  | one\ndb-1 | two\r\nweb  | half whole\ndb-1 | six\r\n"; err != nil || out.String() != want {
			t.Errorf("%q, want %q, %v", out.String(), want, err)
		}
		if errs.String() != "web  | oops\n" {
			t.Errorf("standard error: %q", errs.String())
		}
	}
}

// A source that says nothing does not hold up another one's lines.
func TestSilentSource(t *testing.T) {
	silent, end := io.Pipe()
	out, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Show([]Source{{Name: "aa", Log: silent}, {Name: "bb", Log: bytes.NewReader(frame(1, at(1, "hi\n")))}}, Options{Out: w, Err: w, Follow: true, Timestamps: true})
	}()
	b := make([]byte, 100)
	n, err := out.Read(b)
	if want := "bb | " + at(1, "hi\n"); err != nil || string(b[:n]) != want {
		t.Errorf("%q, %v", b[:n], err)
	}
	end.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBrokenSource(t *testing.T) {
	err := Show([]Source{{Name: "aa", Log: strings.NewReader("no frames at all")}}, Options{Out: io.Discard, Err: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "the log of aa") {
		t.Errorf("%v", err)
	}
}
