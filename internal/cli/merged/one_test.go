package merged

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// A line of several records has its time and its details once.
func TestOneJoinsRecords(t *testing.T) {
	const at, later = "2026-11-27T01:02:03.000000004Z ", "2026-11-27T01:02:03.000000005Z "
	var stream bytes.Buffer
	frame := func(kind byte, text string) {
		stream.Write(binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, uint32(len(text))))
		stream.WriteString(text)
	}
	long := strings.Repeat("x", 16<<10)
	frame(1, at+"app=shop "+long)
	frame(2, at+"app=shop other\n")
	frame(1, later+"app=shop "+later+"is text\n")
	frame(1, at+"app=shop goes on, ")
	frame(1, "an error of the engine\n")
	frame(2, at+"app=shop half")
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(stream.Bytes()), "in pieces": iotest.OneByteReader(bytes.NewReader(stream.Bytes()))} {
		var out, err strings.Builder
		if e := One(r, &out, &err, true, true); e != nil {
			t.Fatal(e)
		}
		if want := at + "app=shop " + long + later + "is text\n" + at + "app=shop goes on, an error of the engine\n"; out.String() != want {
			t.Errorf("%s: %q", name, out.String())
		}
		if want := at + "app=shop other\n" + at + "app=shop half"; err.String() != want {
			t.Errorf("%s: %q", name, err.String())
		}
	}
}
