package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultRules are Docker 29's: every node may be made (without that, images
// with device nodes could not be unpacked inside), few may be opened.
func DefaultRules() []DeviceRule {
	return []DeviceRule{
		{"c", -1, -1, "m"}, {"b", -1, -1, "m"},
		{"c", 1, 3, "rwm"},    // null
		{"c", 1, 5, "rwm"},    // zero
		{"c", 1, 7, "rwm"},    // full
		{"c", 1, 8, "rwm"},    // random
		{"c", 1, 9, "rwm"},    // urandom
		{"c", 5, 0, "rwm"},    // tty
		{"c", 5, 1, "rwm"},    // console
		{"c", 5, 2, "rwm"},    // ptmx
		{"c", 136, -1, "rwm"}, // the slaves of pseudo terminals
	}
}

// expand checks the rules and turns type "a" into both types. all: every
// device is allowed.
func expand(d Devices) (rules []DeviceRule, all bool, err error) {
	for _, r := range d.Rules {
		access := canonical(r.Access)
		switch {
		case access == "" || strings.Trim(r.Access, "rwm") != "":
			return nil, false, fmt.Errorf("invalid access %q of a device rule: it is made of r, w and m", r.Access)
		case r.Major < -1 || r.Minor < -1 || r.Major > 1<<32-2 || r.Minor > 1<<32-2:
			return nil, false, fmt.Errorf("invalid device number %d:%d", r.Major, r.Minor)
		case r.Type == "c" || r.Type == "b":
			rules = append(rules, DeviceRule{r.Type, r.Major, r.Minor, access})
		case r.Type != "a":
			return nil, false, fmt.Errorf("invalid type %q of a device rule: it is a, b or c", r.Type)
		case r.Major == -1 && r.Minor == -1 && access == "rwm":
			all = true
		default:
			rules = append(rules, DeviceRule{"b", r.Major, r.Minor, access}, DeviceRule{"c", r.Major, r.Minor, access})
		}
	}
	return rules, all || d.All, nil
}

// canonical puts the letters of an access in the kernel's order.
func canonical(access string) string {
	out := ""
	for _, c := range "rwm" {
		if strings.ContainsRune(access, c) {
			out += string(c)
		}
	}
	return out
}

// String is a rule as devices.allow takes it and devices.list shows it.
func (r DeviceRule) String() string {
	n := func(v int64) string {
		if v < 0 {
			return "*"
		}
		return strconv.FormatInt(v, 10)
	}
	return r.Type + " " + n(r.Major) + ":" + n(r.Minor) + " " + r.Access
}

// defaultDevices makes the default rules hold for a sub-parent.
func (d *Driver) defaultDevices(sub string) error {
	if d.Version == 2 {
		return attachDevices(filepath.Join(d.hierarchies[0].dir, sub), DefaultRules())
	}
	for _, h := range d.hierarchies {
		if h.has("devices") {
			return allowV1(filepath.Join(h.dir, sub), DefaultRules())
		}
	}
	return errors.New("this host has no devices cgroup controller, so a container could open every device of the host: mount it by `mount -t cgroup -o devices devices /sys/fs/cgroup/devices`")
}

// applyDevices makes rules hold for the leaf alone.
func (g *Group) applyDevices(rules []DeviceRule) error {
	if rules == nil {
		return nil
	}
	if dir := g.v2(); dir != "" {
		return attachDevices(dir, rules)
	}
	return allowV1(g.paths["devices"], rules)
}

// allowV1 makes a cgroup allow these rules and nothing else. What holds
// already is not written again: with containers below, the kernel refuses to
// deny all anew.
func allowV1(dir string, rules []DeviceRule) error {
	if dir == "" {
		return errors.New("this host has no devices cgroup controller, so device rules cannot be enforced")
	}
	text, err := read(dir, "devices.list")
	if err != nil {
		return err
	}
	have := strings.Split(text, "\n")
	if slices.Contains(have, "a *:* rwm") {
		if err := write(dir, "devices.deny", "a"); err != nil {
			if errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("the cgroup %s has groups below it that were made before its device rules: stop what runs there: %w", dir, err)
			}
			return err
		}
		have = nil
	}
	for _, r := range rules {
		if line := r.String(); !slices.Contains(have, line) {
			if err := write(dir, "devices.allow", line); err != nil {
				return fmt.Errorf("the device rule %q cannot be allowed: the engine's own cgroup may not allow it: %w", line, err)
			}
		}
	}
	return nil
}
