package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// TestRewriteLeased: a container that has a lease on its /etc/hosts does not hold the
// engine up.
func TestRewriteLeased(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte("one\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	theirs, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if _, err := unix.FcntlInt(theirs.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	change := func(text []byte) []byte { return append(text, "two\n"...) }
	if err := rewriteHosts(path, change); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("with a lease: %v", err)
	}
	if _, err := unix.FcntlInt(theirs.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	if err := rewriteHosts(path, change); err != nil {
		t.Errorf("without: %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "one\ntwo\n" {
		t.Errorf("%q", text)
	}
}

// TestShownLinks: inspect shows links as Docker's clients cut them, and none where they are
// of no account.
func TestShownLinks(t *testing.T) {
	for mode, want := range map[container.NetworkMode]int{"": 1, "bridge": 1, "default": 1, "other": 0} {
		r := &record{Name: "web", HostConfig: &container.HostConfig{NetworkMode: mode, Links: []string{"db:as"}}}
		list := shownLinks(r)
		if len(list) != want || want == 1 && list[0] != "/db:/web/as" {
			t.Errorf("%q: %q", mode, list)
		}
		if r.HostConfig.Links[0] != "db:as" {
			t.Errorf("what is stored was changed: %q", r.HostConfig.Links)
		}
	}
}
