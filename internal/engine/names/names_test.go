package names

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestNames(t *testing.T) {
	n := New()
	a, b := strings.Repeat("ab", 32), "aa"+strings.Repeat("cd", 31)
	if _, err := n.Reserve(a, "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Reserve(b, "/web"); !errdefs.IsConflict(err) || !strings.HasPrefix(err.Error(), `Conflict. The container name "/web" is already in use by container "abab`) {
		t.Fatal(err)
	}
	if _, err := n.Reserve(b, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Reserve(b, "-x"); !errdefs.IsInvalidArgument(err) {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{"web": a, "/web": a, "ab": a, "aa": b} {
		if id, err := n.Resolve(ref); err != nil || id != want {
			t.Errorf("%s: %s %v", ref, id, err)
		}
	}
	if _, err := n.Resolve("a"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	n.Release(a)
	if _, err := n.Resolve("web"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
