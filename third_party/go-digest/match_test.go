package digest

import "testing"

func FuzzMatch(f *testing.F) {
	for _, s := range []string{"", ":", "a:", ":a", "sha256:abc", "sha256+b64:a-_=", "a..b:c", "a.:c", "-a:c", "A:c", "a:b:c", "a:é", "a:b\n", "multi+x.y_z-1:Z9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := isDigest(s), DigestRegexpAnchored.MatchString(s); got != want {
			t.Errorf("%q is a digest: %v, not %v", s, got, want)
		}
		if got, want := isEncoded(s), encoded.MatchString(s); got != want {
			t.Errorf("%q is encoded: %v, not %v", s, got, want)
		}
	})
}

// encoded is that of all algorithms, whose length is checked apart.
var encoded = lazy(`^[a-f0-9]*$`)
