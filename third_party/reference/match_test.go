package reference

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The anchored expressions of the module as it was.
var (
	anchoredTag        = regexp.MustCompile(`^` + tag + `$`)
	anchoredDigest     = regexp.MustCompile(`^` + digestPat + `$`)
	anchoredName       = regexp.MustCompile(`^(?:(` + domainAndPort + `)/)?(` + remoteName + `)$`)
	anchoredIdentifier = regexp.MustCompile(`^` + identifier + `$`)
)

func FuzzMatch(f *testing.F) {
	const hex = "0123456789abcdef0123456789abcdef"
	for _, s := range []string{
		"", "/", ":", "@", "a", "a:", "a@", "a:b", "a:b:c", "a/b:c/d", "a:1/b", "a:1/b:2", "a:x/b", "A/b", "a/B", "A", "a/b/c", "a//b", "/a", "a/",
		"a.b", "a..b", "a_b", "a__b", "a___b", "a---b", "a-", "a.", "-a", "a._b", "localhost/a", "LOCALHOST:5000/a_b", "a-b.c/d", "a-.c/d", "-a/b", "a..b/c",
		"[::1]/a", "[::1]:5/a", "[::1]:/a", "[]/a", "[::1]x/a", "[::1/a", "[g]/a", "a:/b", "a:9", "a:_", "a:.", "a:-", "a:" + hex + hex + hex + hex, "a:" + hex + hex + hex + hex + "0",
		"a@sha256:" + hex, "a:b@sha256:" + hex, "a@sha256:" + hex[1:], "a@sha-256:" + hex, "a@s-h:" + hex, "a@s.h+t_u:" + hex, "a@s..h:" + hex, "a@s.:" + hex, "a@:" + hex,
		"a@s:" + hex + "g", "a@s:" + hex + ":" + hex, "a@s:" + hex + "@s:" + hex, hex + hex, hex + hex + "0", "a\n", "é", "a/é", "a:b\n", "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(match)
}

// TestMatch tries all short strings of the bytes that mean something; # stands
// for what a digest needs at least.
func TestMatch(t *testing.T) {
	const bytes, longest = "aA0.-_/:@[]+#", 4
	var try func(s string)
	try = func(s string) {
		match(t, strings.ReplaceAll(s, "#", strings.Repeat("0a", 16)))
		if len(s) < longest {
			for i := range len(bytes) {
				try(s + bytes[i:i+1])
			}
		}
	}
	try("")
}

// match compares with the regular expressions.
func match(t *testing.T, s string) {
	t.Helper()
	name, label, digest, ok := matchReference(s)
	same(t, "reference", s, ok, []string{name, label, digest}, ReferenceRegexp.FindStringSubmatch(s))
	domain, path, ok := matchName(s)
	same(t, "name", s, ok, []string{domain, path}, anchoredName.FindStringSubmatch(s))
	for what, got := range map[string]bool{"tag": isTag(s), "digest": isDigest(s), "identifier": isIdentifier(s)} {
		re := map[string]*regexp.Regexp{"tag": anchoredTag, "digest": anchoredDigest, "identifier": anchoredIdentifier}[what]
		if want := re.MatchString(s); got != want {
			t.Errorf("%q is a %s: %v, not %v", s, what, got, want)
		}
	}
}

func same(t *testing.T, what, s string, ok bool, got, want []string) {
	t.Helper()
	if ok != (want != nil) {
		t.Errorf("%q is a %s: %v, not %v", s, what, ok, want != nil)
	} else if ok && !slices.Equal(got, want[1:]) {
		t.Errorf("the parts of %s %q: %q, not %q", what, s, got, want[1:])
	}
}
