package netns

import (
	"fmt"
	"slices"
	"testing"
)

// TestGone: asked one by one, or all together, the devices that are not there are
// the same.
func TestGone(t *testing.T) {
	for _, n := range []int{1, few + 1} {
		names := []string{"lo"}
		var want []string
		for i := range n {
			want = append(want, fmt.Sprintf("hz-gone-%d", i))
		}
		got, err := Gone(append(names, want...))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %d names gone are %q, %v", n+1, got, err)
		}
	}
}
