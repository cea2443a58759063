package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
)

// defaultCaps are Docker's.
func defaultCaps() []string {
	return []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
}

// knownCaps are those of the running kernel.
func knownCaps() ([]string, error) {
	list, err := capability.ListSupported()
	if err != nil {
		return nil, fmt.Errorf("which capabilities the kernel has: %w", err)
	}
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = "CAP_" + strings.ToUpper(c.String())
	}
	return names, nil
}

func capName(s string, known []string) (string, error) {
	n := strings.ToUpper(s)
	if n == "ALL" || n == "CAP_ALL" {
		return "ALL", nil
	}
	if !strings.HasPrefix(n, "CAP_") {
		n = "CAP_" + n
	}
	if !slices.Contains(known, n) {
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid capability: %q: see capabilities(7) for the names", s))
	}
	return n, nil
}

// Capabilities is Docker's default set changed by --cap-add, --cap-drop and --privileged.
func Capabilities(add, drop []string, privileged bool) ([]string, error) {
	known, err := knownCaps()
	if err != nil {
		return nil, err
	}
	var adds, drops []string
	for _, list := range []struct {
		in  []string
		out *[]string
	}{{add, &adds}, {drop, &drops}} {
		for _, c := range list.in {
			n, err := capName(c, known)
			if err != nil {
				return nil, err
			}
			*list.out = append(*list.out, n)
		}
	}
	if privileged {
		return known, nil
	}
	var base []string
	switch {
	case slices.Contains(adds, "ALL"):
		base = known
	case slices.Contains(drops, "ALL"):
	default:
		base = defaultCaps()
	}
	var caps []string
	for _, c := range base {
		if !slices.Contains(drops, c) {
			caps = append(caps, c)
		}
	}
	for _, c := range adds {
		if c != "ALL" && !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	return caps, nil
}
