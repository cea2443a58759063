package plan

import (
	"reflect"
	"strings"
	"syscall"
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

// TestReason: what the engine cannot do never reads like a missing program.
func TestReason(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.ENOENT: "x: it does not exist", syscall.EACCES: "x: access is denied", syscall.EISDIR: "x: a directory is there", syscall.EIO: "x: input/output error",
	} {
		e := Error{Step: "mount", Message: "x", ExitCode: 125}
		if e.Explain(errno); e.Message != want || e.ExitCode != 125 {
			t.Errorf("%+v, want %q", e, want)
		}
		program := Error{Step: "exec", Message: "x", ExitCode: 125}
		if program.Explain(errno); !strings.HasPrefix(program.Message, "x: "+errno.Error()) || program.ExitCode == 125 {
			t.Errorf("%+v", program)
		}
	}
}
