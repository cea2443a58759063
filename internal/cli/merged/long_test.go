package merged

import (
	"bufio"
	"strings"
	"testing"
)

// TestEndlessLine: a terminal's line without end is not held as a whole.
func TestEndlessLine(t *testing.T) {
	long := strings.Repeat("x", 5*maxLine/2)
	var got []int
	err := readRaw(bufio.NewReader(strings.NewReader("short\n"+long+"\n")), func(l *line) bool {
		got = append(got, len(l.text))
		return true
	})
	total := 0
	for _, n := range got {
		if n > maxLine+4096 {
			t.Errorf("a line of %d bytes", n)
		}
		total += n
	}
	if err != nil || len(got) != 4 || total != len("short\n")+len(long)+3 { // two cuts and the end
		t.Errorf("%v, %v", got, err)
	}
}
