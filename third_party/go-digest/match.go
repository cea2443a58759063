package digest

import "strings"

// isDigest is DigestRegexpAnchored in plain code, which needs not be compiled
// when a program runs. match_test.go holds both together. Hezi's change to this
// module.
func isDigest(s string) bool {
	i := strings.IndexByte(s, ':')
	if i < 0 || i+1 == len(s) {
		return false
	}
	letter := false // the last byte was none of the separators
	for _, c := range []byte(s[:i]) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			letter = true
		case letter && strings.IndexByte(".+_-", c) >= 0:
			letter = false
		default:
			return false
		}
	}
	for _, c := range []byte(s[i+1:]) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("=_-", c) >= 0) {
			return false
		}
	}
	return letter
}

// isEncoded: only lower-case hexadecimal digits, of whatever number.
func isEncoded(s string) bool {
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
