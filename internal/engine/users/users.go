// Package users says which ids on the host stand for the users of containers
// in user namespaces: one mapping for all (userns-remap, as dockerd has it), or
// a range for each container (--userns=auto).
package users

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hezi/internal/box"
)

// DefaultSize is how many ids a container gets that does not say it.
const DefaultSize = 65536

// Mode is what --userns asks for.
type Mode struct {
	Host bool
	Auto bool
	Size uint32 // ids, of Auto
}

// Parse reads --userns: host, auto or auto:size=N; "" asks for nothing.
func Parse(m container.UsernsMode) (Mode, error) {
	kind, options, given := strings.Cut(string(m), ":")
	switch {
	case m == "":
		return Mode{}, nil
	case m == "host":
		return Mode{Host: true}, nil
	case kind != "auto", given && options == "":
		return Mode{}, invalid("invalid userns mode: %q: write host, auto or auto:size=N", m)
	}
	mode := Mode{Auto: true, Size: DefaultSize}
	if !given {
		return mode, nil
	}
	value, ok := strings.CutPrefix(options, "size=")
	n, err := strconv.ParseUint(value, 10, 31)
	if !ok || err != nil || n == 0 {
		return Mode{}, invalid("invalid userns mode: %q: write auto:size=N with how many ids the container has, as in auto:size=%d", m, DefaultSize)
	}
	mode.Size = uint32(n)
	return mode, nil
}

// Same says whether two mappings are of the same ids.
func Same(a, b *box.Users) bool {
	if a == nil || b == nil {
		return a == b
	}
	return fmt.Sprint(*a) == fmt.Sprint(*b)
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
