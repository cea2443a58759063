package snapshot

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// overlayOf mounts layers, lowest last, and runs f on the merged tree.
func overlayOf(t *testing.T, w Writable, image string, f func(root string)) {
	t.Helper()
	root := t.TempDir()
	data := "lowerdir=" + strings.Join(append(slices.Clone(w.Below), image), ":") + ",upperdir=" + w.Upper + ",workdir=" + w.Work
	if err := unix.Mount("overlay", root, "overlay", 0, data); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	}()
	f(root)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlatten: what a mount of two saved layers shows, a mount of the one that is
// made of them shows, whatever hides what.
func TestFlatten(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("overlays need root")
	}
	s, err := Open(filepath.Join(t.TempDir(), "writable"), slog.Default())
	must(t, err)
	defer s.Close()
	image := t.TempDir()
	for _, dir := range []string{"gone", "again/deep", "opaque", "both", "file"} {
		must(t, os.MkdirAll(filepath.Join(image, dir), 0o755), os.WriteFile(filepath.Join(image, dir, "of-image"), []byte(dir), 0o644))
	}
	_, err = s.Make("aa")
	must(t, err)
	write := func(root, name, text string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	var chain Chain
	overlayOf(t, s.Get("aa", chain), image, func(root string) {
		must(t, os.RemoveAll(filepath.Join(root, "gone")), os.RemoveAll(filepath.Join(root, "again")), os.RemoveAll(filepath.Join(root, "opaque")),
			os.Mkdir(filepath.Join(root, "opaque"), 0o700))
		write(root, "opaque/first", "1")
		write(root, "both/first", "1")
		must(t, os.RemoveAll(filepath.Join(root, "file")))
		write(root, "file", "a file now")
		write(root, "linked", "two names")
		must(t, os.Link(filepath.Join(root, "linked"), filepath.Join(root, "other-name")), os.Chmod(root, 0o751))
	})
	grow := func() {
		t.Helper()
		next, err := s.Grow(t.Context(), "aa", chain)
		must(t, err)
		chain = next
	}
	grow()
	overlayOf(t, s.Get("aa", chain), image, func(root string) {
		must(t, os.MkdirAll(filepath.Join(root, "again/deep"), 0o755)) // over a whiteout
		write(root, "opaque/second", "2")                              // over an opaque directory
		must(t, os.Remove(filepath.Join(root, "both/first")), os.Remove(filepath.Join(root, "both/of-image")))
		must(t, os.Remove(filepath.Join(root, "file")), os.Mkdir(filepath.Join(root, "file"), 0o710)) // over a file
		write(root, "file/second", "2")
		must(t, unix.Setxattr(filepath.Join(root, "both"), "user.note", []byte("second"), 0),
			os.Symlink("nowhere", filepath.Join(root, "link")), unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	})
	grow()
	overlayOf(t, s.Get("aa", chain), image, func(root string) { write(root, "third", "3") })
	var before []byte
	overlayOf(t, s.Get("aa", chain), image, func(root string) {
		var st unix.Stat_t
		must(t, unix.Stat(root, &st))
		if st.Mode&0o777 != 0o751 {
			t.Errorf("the root's mode in the uppermost layer is %o", st.Mode&0o777)
		}
		before = tarOf(t, root)
	})
	one, done, err := s.Flatten(context.Background(), "aa", chain[1], chain[2])
	if err != nil || !done {
		t.Fatal(done, err)
	}
	flat := chain.Replaced(chain[1], chain[2], one)
	if len(flat) != 2 {
		t.Fatalf("%v", flat)
	}
	must(t, s.Keep("aa", flat))
	if _, err := os.Stat(s.upper("aa", chain[1])); err == nil {
		t.Error("a layer that nothing has is still there")
	}
	overlayOf(t, s.Get("aa", flat), image, func(root string) {
		if after := tarOf(t, root); !bytes.Equal(before, after) {
			t.Errorf("the file system is another: %d and %d bytes", len(before), len(after))
		}
	})

	// A layer that somebody removed is said, and nothing is made.
	if got, err := s.Grow(t.Context(), "aa", Chain{"77"}); !errdefs.IsFailedPrecondition(err) || got != nil {
		t.Errorf("over a layer that is gone: %v, %v", got, err)
	}

	// What only the kernel can follow stays as it is.
	must(t, os.Mkdir(filepath.Join(s.upper("aa", one), "renamed"), 0o755),
		unix.Setxattr(filepath.Join(s.upper("aa", one), "renamed"), overlayPrefix+"redirect", []byte("/both"), 0))
	list, err := os.ReadDir(filepath.Join(s.root, "aa"))
	must(t, err)
	if _, done, err := s.Flatten(context.Background(), "aa", flat[0], one); done || err != nil {
		t.Errorf("a renamed directory: %v, %v", done, err)
	}
	if now, err := os.ReadDir(filepath.Join(s.root, "aa")); err != nil || len(now) != len(list) {
		t.Errorf("left behind: %v, %v", now, err)
	}
}

func TestChains(t *testing.T) {
	var none Chain
	if got := none.All(); !slices.Equal(got, Chain{""}) {
		t.Errorf("%q", got)
	}
	if got := none.All().Under("2"); !slices.Equal(got, Chain{"2", ""}) {
		t.Errorf("%q", got)
	}
	if got := none.Saved().Under("2"); !slices.Equal(got, Chain{"2"}) {
		t.Errorf("%q", got)
	}
	if got := (Chain{"4", "3", "2", ""}).Replaced("3", "2", "5"); !slices.Equal(got, Chain{"4", "5", ""}) {
		t.Errorf("%q", got)
	}
}
