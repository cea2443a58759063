package initproc

import "testing"

// A rehearsal leaves room and nothing else: no call is on the tape that it returns.
func TestRehearsal(t *testing.T) {
	tape, text := rehearse()
	if len(tape) != 0 || cap(tape) < 30 {
		t.Errorf("the tape has %d calls and room for %d", len(tape), cap(tape))
	}
	if len(text) == 0 {
		t.Error("there is no room for the plan")
	}
}
