package registry

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RateLimit is what a registry says of how often it may be asked. Docker Hub
// sends RateLimit-Limit and -Remaining as "100;w=21600"; others say when the
// count begins anew, as draft-ietf-httpapi-ratelimit-headers or as GitHub do.
type RateLimit struct {
	Limit, Remaining int           // -1 if it does not say
	Window           time.Duration // 0 if it does not say
	Reset            time.Time     // zero if it does not say
	Source           string        // whom it counts, as an IP address; "" if it does not say
}

// String is for people: "100 in 6h0m0s, 3 left".
func (l *RateLimit) String() string {
	var parts []string
	switch {
	case l.Limit >= 0 && l.Window > 0:
		parts = append(parts, fmt.Sprintf("%d in %s", l.Limit, l.Window))
	case l.Limit >= 0:
		parts = append(parts, strconv.Itoa(l.Limit))
	}
	if l.Remaining >= 0 {
		parts = append(parts, fmt.Sprintf("%d left", l.Remaining))
	}
	if l.Source != "" {
		parts = append(parts, "counted for "+l.Source)
	}
	return strings.Join(parts, ", ")
}

// rateLimit reads the headers; nil if there are none.
func rateLimit(h http.Header, now time.Time) *RateLimit {
	l := &RateLimit{Limit: -1, Remaining: -1}
	for _, prefix := range []string{"X-Ratelimit-", "Ratelimit-"} {
		if n, w, ok := quota(h.Get(prefix + "Limit")); ok {
			l.Limit, l.Window = n, w
		}
		if n, w, ok := quota(h.Get(prefix + "Remaining")); ok {
			l.Remaining = n
			l.Window = max(l.Window, w)
		}
		if d := seconds(h.Get(prefix+"Reset"), now); d > 0 {
			l.Reset = now.Add(d)
		}
	}
	if l.Limit < 0 && l.Remaining < 0 && l.Reset.IsZero() {
		return nil
	}
	l.Source = printable(h.Get("Docker-Ratelimit-Source"))
	return l
}

// quota reads "100" or "100;w=21600".
func quota(v string) (n int, window time.Duration, ok bool) {
	first, rest, _ := strings.Cut(v, ";")
	n, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || n < 0 {
		return 0, 0, false
	}
	for p := range strings.SplitSeq(rest, ";") {
		if w, found := strings.CutPrefix(strings.TrimSpace(p), "w="); found {
			if s, err := strconv.ParseUint(w, 10, 31); err == nil {
				window = time.Duration(s) * time.Second
			}
		}
	}
	return n, window, true
}

// epoch is the least number that is a moment rather than a count of seconds.
const epoch = 1_000_000_000

// seconds reads a count of seconds, or a moment as Unix time.
func seconds(v string, now time.Time) time.Duration {
	n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 40)
	switch {
	case err != nil || n < 0:
		return 0
	case n >= epoch:
		return max(0, time.Unix(n, 0).Sub(now))
	}
	return time.Duration(n) * time.Second
}

// retryAfter is how long the registry asks to wait: Retry-After (RFC 9110,
// 10.2.3) in seconds, as a date or, as Docker Hub has it, as Unix time; else
// when its limit begins anew.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if d := seconds(v, now); d > 0 {
		return d
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	if l := rateLimit(h, now); l != nil && !l.Reset.IsZero() && l.Remaining <= 0 {
		return l.Reset.Sub(now)
	}
	return 0
}
