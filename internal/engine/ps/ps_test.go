package ps

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestChooseThreads: lines of threads follow their process, and commands keep
// their spaces.
func TestChooseThreads(t *testing.T) {
	resp, err := choose("USER PID LWP CMD\nroot 5 - sh -c  x\nroot - 5 -\nroot 6 - top\nroot - 6 -\n\n", []int{5})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"root", "5", "-", "sh -c x"}, {"root", "-", "5", "-"}}
	if diff := cmp.Diff(want, resp.Processes); diff != "" {
		t.Error(diff)
	}
}
