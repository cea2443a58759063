package labels

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// TestWithout: where SELinux is off, nothing has a label, and asking for one is an error.
func TestWithout(t *testing.T) {
	if w := Enable(false); w != "" || Enabled() {
		t.Errorf("switched off: %q, %v", w, Enabled())
	}
	err := Check([]string{"disable", "type:container_t"})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `"label=type:container_t": SELinux is not enabled`) {
		t.Errorf("a label: %v", err)
	}
	if err := Check([]string{"disable"}); err != nil {
		t.Error(err)
	}
	p, err := Assign(&container.HostConfig{}, nil, nil, nil)
	if err != nil || p != (Pair{}) {
		t.Errorf("labels without SELinux: %+v, %v", p, err)
	}
}

func TestForMode(t *testing.T) {
	p := Pair{Process: "system_u:system_r:container_t:s0:c1,c2", Files: "system_u:object_r:container_file_t:s0:c1,c2"}
	for mode, want := range map[string]string{
		"": "", "ro": "", "z": "system_u:object_r:container_file_t:s0", "ro,Z": p.Files, "Z,rslave": p.Files,
	} {
		if got := p.ForMode(mode); got != want {
			t.Errorf("%q: %q, want %q", mode, got, want)
		}
	}
	if got := (Pair{}).ForMode("z"); got != "" {
		t.Errorf("without labels: %q", got)
	}
	if !p.Together(Pair{Process: "u:r:other_t:s0:c1,c2"}) || p.Together(Pair{Process: "u:r:container_t:s0:c1,c3"}) || (Pair{}).Together(Pair{}) {
		t.Error("which containers have the same categories is wrong")
	}
}

// TestJoined: who joins others has their labels, as with dockerd.
func TestJoined(t *testing.T) {
	a := &Pair{Process: "system_u:system_r:container_t:s0:c1,c2"}
	b := &Pair{Process: "system_u:system_r:container_t:s0:c3,c4"}
	none := &Pair{}
	for name, c := range map[string]struct {
		h        container.HostConfig
		ipc, pid *Pair
		want     string
	}{
		"alone":         {container.HostConfig{}, nil, nil, ""},
		"privileged":    {container.HostConfig{Privileged: true}, a, nil, "disable"},
		"the host's":    {container.HostConfig{PidMode: "host"}, nil, nil, "disable"},
		"one":           {container.HostConfig{}, a, nil, "user:system_u role:system_r type:container_t level:s0:c1,c2"},
		"both":          {container.HostConfig{}, b, b, "user:system_u role:system_r type:container_t level:s0:c3,c4"},
		"one has none":  {container.HostConfig{}, none, a, "user:system_u role:system_r type:container_t level:s0:c1,c2"},
		"they disagree": {container.HostConfig{}, a, b, "--ipc and --pid containers SELinux labels aren't the same"},
	} {
		got, err := implied(&c.h, c.ipc, c.pid)
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
}

const mine = "system_u:object_r:container_file_t:s0:c1,c2"

func labelOf(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 200)
	n, err := unix.Lgetxattr(path, attribute, buf)
	if err == unix.ENODATA {
		return ""
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return strings.TrimSuffix(string(buf[:n]), "\x00")
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can label files")
	}
}

// TestRelabel: a tree is labelled, links in it too, and nothing that they name.
func TestRelabel(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	tree := filepath.Join(dir, "tree")
	deep := filepath.Join(tree, "a", "b")
	for _, d := range []string{outside, deep} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(outside, "file"), filepath.Join(deep, "file")} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(tree, "link")), os.Symlink(tree, filepath.Join(dir, "way")), unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Relabel(filepath.Join(dir, "way"), "", mine); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{tree: mine, deep: mine, filepath.Join(deep, "file"): mine, filepath.Join(tree, "link"): mine,
		filepath.Join(tree, "fifo"): mine, outside: "", filepath.Join(outside, "file"): "", filepath.Join(dir, "way"): ""} {
		if got := labelOf(t, path); got != want {
			t.Errorf("%s has the label %q, want %q", path, got, want)
		}
	}
	const other = "system_u:object_r:container_file_t:s0"
	if err := Relabel(tree, "a/b", other); err != nil {
		t.Fatal(err)
	}
	if a, b := labelOf(t, filepath.Dir(deep)), labelOf(t, deep); a != mine || b != other {
		t.Errorf("a part: %q and %q", a, b)
	}
	if err := Relabel(tree, "link", mine); err == nil {
		t.Error("a link leads out of the volume")
	}
	for _, host := range []string{"/usr", "/etc", "/tmp/../var/"} {
		if err := Relabel(host, "", mine); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "is not allowed") {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := Relabel(filepath.Join(dir, "missing"), "", mine); err != nil {
		t.Error(err)
	}
}

// TestRacingRelabel: a container that has the place swaps a folder for a link
// to one outside: that keeps its label.
func TestRacingRelabel(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	outside, tree := filepath.Join(dir, "outside"), filepath.Join(dir, "tree")
	at, aside := filepath.Join(tree, "sub"), filepath.Join(tree, "aside")
	for _, d := range []string{outside, at} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, aside); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, aside, unix.RENAME_EXCHANGE)
			}
		}
	})
	for i := range 3000 {
		if err := Relabel(tree, "", mine+strings.Repeat("x", i%2)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	swapping.Wait()
	for _, p := range []string{outside, filepath.Join(outside, "file")} {
		if got := labelOf(t, p); got != "" {
			t.Errorf("%s has the label %q", p, got)
		}
	}
}
