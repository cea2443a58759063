package spec

import (
	"path"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// Values of Security.Seccomp and Security.AppArmor with a meaning of their own.
const (
	Unconfined     = "unconfined"
	BuiltinSeccomp = "builtin"
)

// Security is what --security-opt asks for.
type Security struct {
	NoNewPrivileges *bool  // nil: as the daemon has it
	Seccomp         string // "" as the daemon has it; builtin, unconfined, or a profile's JSON
	AppArmor        string // "" the default one; unconfined, or the name of a loaded profile
	Labels          []string
	WritableCgroups *bool // nil: as the privileges are
}

// ParseSecurity reads HostConfig.SecurityOpt in Docker's syntax.
func ParseSecurity(options []string) (*Security, error) {
	s := &Security{}
	for _, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			key, value, ok = strings.Cut(o, ":")
		}
		switch key {
		case "no-new-privileges", "writable-cgroups":
			on := true
			if ok {
				var err error
				if on, err = strconv.ParseBool(value); err != nil {
					return nil, invalid("invalid --security-opt 2: %q: write %s=true or %s=false", o, key, key)
				}
			}
			if key == "writable-cgroups" {
				s.WritableCgroups = &on
			} else {
				s.NoNewPrivileges = &on
			}
			continue
		case "disable":
			s.Labels = append(s.Labels, o)
			continue
		}
		if !ok {
			return nil, invalid("invalid --security-opt 1: %q: write NAME=VALUE", o)
		}
		switch key {
		case "label":
			s.Labels = append(s.Labels, value)
		case "apparmor":
			s.AppArmor = value
		case "seccomp":
			s.Seccomp = value
		default:
			return nil, invalid("invalid --security-opt 2: %q: the options are apparmor, label, no-new-privileges, seccomp and writable-cgroups", o)
		}
	}
	return s, nil
}

// checkHidden refuses lists of hidden paths that cannot be applied.
func checkHidden(h *container.HostConfig) error {
	for name, list := range map[string][]string{"MaskedPaths": h.MaskedPaths, "ReadonlyPaths": h.ReadonlyPaths} {
		for _, p := range list {
			if !path.IsAbs(p) || path.Clean(p) == "/" {
				return invalid("invalid HostConfig.%s: %q: an absolute path below / is needed", name, p)
			}
		}
	}
	return nil
}
