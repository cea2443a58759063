// Package filters selects networks as the filters of the API do.
package filters

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Check refuses filters of other names than those known, and values that mean nothing.
func Check(f map[string]map[string]bool, known ...string) error {
	for key, values := range f {
		if !slices.Contains(known, key) {
			return invalid("invalid filter '%s'", key)
		}
		for v := range values {
			switch {
			case key == "dangling" && !slices.Contains([]string{"true", "1", "false", "0"}, v):
				return invalid(`invalid value for filter 'dangling': must be "true" (or "1"), or "false" (or "0")`)
			case key == "type" && v != "builtin" && v != "custom":
				return invalid("invalid value for filter 'type': must be 'builtin' or 'custom'")
			case len(values) > 1 && key == "dangling":
				return invalid(`got more than one value for filter key "dangling"`)
			case len(values) > 1 && key == "until":
				return invalid("invalid filter: 'until' cannot be specified more than once")
			}
		}
	}
	return nil
}

// Match says whether a network passes all filters: of one key, labels must all match and
// of the others one. own are those that every engine has. until is for the caller.
func Match(n network.Inspect, own bool, f map[string]map[string]bool) bool {
	used := own || len(n.Containers) > 0
	test := map[string]func(v string) bool{
		"name":     func(v string) bool { return matchText(v, n.Name) },
		"id":       func(v string) bool { return strings.HasPrefix(n.ID, v) },
		"driver":   func(v string) bool { return n.Driver == v },
		"scope":    func(v string) bool { return n.Scope == v },
		"type":     func(v string) bool { return (v == "builtin") == own },
		"dangling": func(v string) bool { return (v == "true" || v == "1") != used },
	}
	for key, values := range f {
		pass := len(values) == 0
		for v := range values {
			if test[key] != nil && test[key](v) {
				pass = true
			}
		}
		switch key {
		case "label":
			pass = labelled(n.Labels, values)
		case "label!":
			pass = !labelled(n.Labels, values)
		case "until":
			continue
		}
		if !pass {
			return false
		}
	}
	return true
}

// matchText is Docker's way with names: a regular expression, or a part.
func matchText(pattern, s string) bool {
	if strings.Contains(s, pattern) {
		return true
	}
	ok, err := regexp.MatchString(pattern, s)
	return err == nil && ok
}

func labelled(labels map[string]string, want map[string]bool) bool {
	for w := range want {
		k, v, exact := strings.Cut(w, "=")
		have, ok := labels[k]
		if !ok || exact && have != v {
			return false
		}
	}
	return true
}
