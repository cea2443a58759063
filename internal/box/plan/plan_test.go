package plan

import (
	"reflect"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	in := Plan{ID: "x", Root: 3, Null: NoFD, Mounts: []Mount{{Type: "bind", Set: 1 << 40, FD: -1, Hierarchies: []Hierarchy{{Name: "cpu", Links: []string{"a"}}}}},
		Stdio: [3]int{1, -1, 300}, Process: Process{Args: []string{"a", ""}, Seccomp: []byte{1, 2}, HasUmask: true, Umask: 0o77, Height: 65535}}
	text := Encode(&in)
	var out Plan
	if err := Decode(text, &out); err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("%v, %+v", err, out)
	}
	for n := range text {
		if err := Decode(text[:n], &Plan{}); err == nil {
			t.Fatalf("a message cut at %d of %d was accepted", n, len(text))
		}
	}
}
