package users

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Mode{"": {}, "host": {Host: true}, "auto": {Auto: true, Size: 65536}, "auto:size=12": {Auto: true, Size: 12}} {
		if got, err := Parse(container.UsernsMode(in)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"private", "auto:", "auto:12", "auto:size=", "auto:size=0", "auto:size=-1", "auto:size=9999999999", "host:x", "automatic"} {
		if _, err := Parse(container.UsernsMode(in)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func pool(t *testing.T, uids, gids string) *Pool {
	t.Helper()
	dir := t.TempDir()
	p := NewPool(nil)
	p.subUID, p.subGID = filepath.Join(dir, "subuid"), filepath.Join(dir, "subgid")
	for f, text := range map[string]string{p.subUID: uids, p.subGID: gids} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// take gives the range as START+SIZE, or the error.
func take(p *Pool, id string, size uint32) string {
	u, err := p.Take(id, size)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d+%d", u.UIDs[0].Host, u.UIDs[0].Size)
}

// TestPool: ranges are of what Owner has as users and as groups, never overlap,
// and are given again once they are back.
func TestPool(t *testing.T) {
	p := pool(t, "x:1:9\nhezi:1000:100\nhezi:5000:10\n", "hezi:1050:1000\nhezi:5000:10\n")
	for _, c := range []struct {
		id   string
		size uint32
		want string
	}{{"a", 20, "1050+20"}, {"b", 20, "1070+20"}, {"c", 20, "no 20 free ids are left"}, {"c", 10, "1090+10"}, {"d", 10, "5000+10"}, {"e", 1, "no 1 free ids"}} {
		if got := take(p, c.id, c.size); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s takes %d: %s, want %s", c.id, c.size, got, c.want)
		}
	}
	p.Give("b")
	p.Give("nobody")
	if got := take(p, "f", 15); got != "1070+15" {
		t.Error(got)
	}
	if got := take(p, "g", 5); got != "1085+5" {
		t.Error(got)
	}
}

// TestClaim: what containers had before is not given to others.
func TestClaim(t *testing.T) {
	p := NewPool(&Range{1000, 100})
	u, _ := NewPool(&Range{1010, 10}).Take("old", 10)
	if err := p.Claim("old", u); err != nil {
		t.Error(err)
	}
	if err := p.Claim("other", u); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	if got := take(p, "new", 11); got != "1020+11" {
		t.Error(got)
	}
	if got := take(p, "new2", 10); got != "1000+10" {
		t.Error(got)
	}
}

func TestNoPool(t *testing.T) {
	for _, p := range []*Pool{pool(t, "", ""), pool(t, "x:600000:65536\nhezi:1:5\n", "hezi:10:5\n")} {
		_, err := p.Take("a", 1)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "add the line hezi:") {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "1", "0:5", "5:0", "4294967290:10", "a:b"} {
		if _, err := ParseRange(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestRemap(t *testing.T) {
	for spec, want := range map[string]string{
		"a:b:c": "Invalid user/group specification", ":x": "Invalid user/group specification", "x:": "Invalid user/group specification",
		"no-such-user": `Error during uid lookup for "no-such-user"`, "1999999999": "Uid 1999999999 has no entry",
		"root:no-such-group": `Error during gid lookup for "no-such-group"`, "root:1999999999": "Gid 1999999999 has no entry",
	} {
		if _, err := Remap(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	if u, err := Remap("root"); u != nil || err != nil {
		t.Error(u, err)
	}
}
