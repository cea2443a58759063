// Package walls says what confines a container's processes on this host:
// seccomp, AppArmor and no-new-privileges, as the request and the daemon's
// configuration have them.
package walls

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/apparmor"
	"hezi/internal/box/seccomp"
	"hezi/internal/engine/labels"
	"hezi/internal/engine/spec"
)

// Walls are those of containers that ask for no others.
type Walls struct {
	Seccomp         *seccomp.Profile // nil: none
	AppArmor        bool             // the default profile is loaded
	NoNewPrivileges bool
}

// Check refuses security options that cannot hold here, before anything is
// made: nothing of them is left out in silence.
func (w *Walls) Check(h *container.HostConfig) error {
	s, err := spec.ParseSecurity(h.SecurityOpt)
	if err != nil {
		return err
	}
	profile, err := w.seccompProfile(h, s)
	if err != nil {
		return err
	}
	caps, err := spec.Capabilities(h.CapAdd, h.CapDrop, h.Privileged)
	if err != nil {
		return err
	}
	if _, _, err := seccomp.Compile(profile, caps, runtime.GOARCH); err != nil { // with rules for these capabilities
		return errdefs.ErrInvalidArgument.WithMessage("Decoding seccomp profile failed: " + err.Error())
	}
	if _, err := w.appArmorProfile(h, s); err != nil {
		return err
	}
	return labels.Check(s.Labels)
}

// seccompProfile is the profile of a container's processes; nil is none.
// Privileged containers have one only if it is asked for.
func (w *Walls) seccompProfile(h *container.HostConfig, s *spec.Security) (*seccomp.Profile, error) {
	switch s.Seccomp {
	case "":
		if h.Privileged {
			return nil, nil
		}
		return w.Seccomp, nil
	case spec.Unconfined:
		return nil, nil
	case spec.BuiltinSeccomp:
		return seccomp.Default(), nil
	}
	p, err := seccomp.ParseCached(s.Seccomp)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("Decoding seccomp profile failed: " + err.Error()) // Docker's words
	}
	return p, nil
}

// appArmorProfile is the profile of a container's processes; "" is none.
func (w *Walls) appArmorProfile(h *container.HostConfig, s *spec.Security) (string, error) {
	name := s.AppArmor
	switch {
	case name == spec.Unconfined, name == "" && h.Privileged:
		return "", nil
	case name == "" && w.AppArmor:
		return apparmor.Default, nil
	case name == "":
		return "", nil
	case !w.AppArmor:
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"--security-opt apparmor=%s: apparmor: config provided but apparmor not supported: the kernel has it not switched on, or apparmor_parser is missing; leave it out, or write apparmor=unconfined", name)) // runc's words
	case strings.ContainsAny(name, "\n\x00"):
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid --security-opt: %q is no name of an AppArmor profile", name))
	case name == apparmor.Docker:
		// Who writes Docker's means the default one; it is Docker's own where Docker is.
		if loaded, err := apparmor.Loaded(name); err == nil && loaded {
			return name, nil
		}
		return apparmor.Default, nil
	}
	return name, nil
}

// Confine gives a process the walls of its container that are the process's own,
// also to an exec with more capabilities than the container's caps.
func (w *Walls) Confine(p *box.Process, h *container.HostConfig, s *spec.Security, caps []string) error {
	p.NoNewPrivileges = w.NoNewPrivileges
	if s.NoNewPrivileges != nil {
		p.NoNewPrivileges = *s.NoNewPrivileges
	}
	profile, err := w.seccompProfile(h, s)
	if err != nil {
		return err
	}
	if p.AppArmorProfile, err = w.appArmorProfile(h, s); err != nil {
		return err
	}
	if p.AppArmorProfile == apparmor.Default { // upgrades of the package unload it
		if err := apparmor.Ensure(); err != nil {
			return err
		}
	}
	p.Seccomp, p.SeccompFlags, err = seccomp.Compile(profile, caps, runtime.GOARCH)
	return err
}

// Filter is a container's seccomp profile as other OCI runtimes take it.
func (w *Walls) Filter(h *container.HostConfig, s *spec.Security, caps []string) (*specs.LinuxSeccomp, error) {
	profile, err := w.seccompProfile(h, s)
	if err != nil {
		return nil, err
	}
	return profile.OCI(caps)
}

// AppArmorOf is a container's profile as inspect has it: "" where the kernel
// has none.
func (w *Walls) AppArmorOf(h *container.HostConfig) string {
	if !w.AppArmor {
		return ""
	}
	s, err := spec.ParseSecurity(h.SecurityOpt)
	if err != nil {
		return ""
	}
	name, err := w.appArmorProfile(h, s)
	if err == nil && name == "" {
		return spec.Unconfined
	}
	return name
}
