package reference

import "strings"

// What the regular expressions say, in plain code: to compile them takes longer
// than all else that a short command does. match_test.go holds both together.
// Hezi's change to this module.

// matchReference is referencePat with its groups.
func matchReference(s string) (name, tag, digest string, ok bool) {
	name, digest, digested := strings.Cut(s, "@")
	last := name[strings.LastIndexByte(name, '/')+1:]
	_, tag, tagged := strings.Cut(last, ":")
	if tagged {
		name = name[:len(name)-len(tag)-1]
	}
	if digested && !isDigest(digest) || tagged && !isTag(tag) {
		return "", "", "", false
	}
	if _, _, ok = matchName(name); !ok {
		return "", "", "", false
	}
	return name, tag, digest, true
}

// matchName is a name, anchored, with its domain, which may be empty, and its path.
func matchName(s string) (domain, path string, ok bool) {
	first, rest, several := strings.Cut(s, "/")
	if several && !isRemoteName(rest) {
		return "", "", false
	}
	if several && isDomainAndPort(first) {
		return first, rest, true
	}
	return "", s, isPathComponent(first)
}

// isDomainAndPort is domainAndPort, anchored.
func isDomainAndPort(s string) bool {
	if after, ok := strings.CutPrefix(s, "["); ok {
		address, port, closed := strings.Cut(after, "]")
		return closed && all(address, func(c byte) bool { return isHex(c) || c == ':' }) &&
			(port == "" || port[0] == ':' && all(port[1:], isDigit))
	}
	host, port, ok := strings.Cut(s, ":")
	if ok && !all(port, isDigit) {
		return false
	}
	for part := range strings.SplitSeq(host, ".") {
		if !all(part, func(c byte) bool { return isAlphanumeric(c) || c == '-' }) || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
	}
	return true
}

// isRemoteName is remoteName, anchored.
func isRemoteName(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if !isPathComponent(part) {
			return false
		}
	}
	return true
}

// isPathComponent is pathComponent, anchored.
func isPathComponent(s string) bool {
	for {
		n := prefix(s, func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'z' })
		if n == 0 || n == len(s) {
			return n > 0
		}
		s = s[n:]
		switch {
		case s[0] == '-':
			s = strings.TrimLeft(s, "-")
		case strings.HasPrefix(s, "__"):
			s = s[2:]
		case s[0] == '.' || s[0] == '_':
			s = s[1:]
		default:
			return false
		}
	}
}

// isTag is tag, anchored.
func isTag(s string) bool {
	return len(s) <= 128 && s != "" && s[0] != '.' && s[0] != '-' &&
		all(s, func(c byte) bool { return isAlphanumeric(c) || c == '_' || c == '.' || c == '-' })
}

// isDigest is digestPat, anchored.
func isDigest(s string) bool {
	algorithm, encoded, ok := strings.Cut(s, ":")
	if !ok || len(encoded) < 32 || !all(encoded, isHex) {
		return false
	}
	start := true
	for i := range len(algorithm) {
		switch c := algorithm[i]; {
		case start && !isLetter(c):
			return false
		case isAlphanumeric(c):
			start = false
		case strings.IndexByte("-_+.", c) >= 0:
			start = true
		default:
			return false
		}
	}
	return !start
}

// isIdentifier is identifier, anchored.
func isIdentifier(s string) bool {
	return len(s) == 64 && all(s, func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' })
}

// all says whether s has bytes, and all of them are in the class.
func all(s string, class func(byte) bool) bool { return s != "" && prefix(s, class) == len(s) }

// prefix counts the bytes of the class with which s begins.
func prefix(s string, class func(byte) bool) int {
	for i := range len(s) {
		if !class(s[i]) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool        { return '0' <= c && c <= '9' }
func isLetter(c byte) bool       { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func isAlphanumeric(c byte) bool { return isDigit(c) || isLetter(c) }
func isHex(c byte) bool          { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }
