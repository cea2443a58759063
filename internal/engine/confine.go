package engine

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"hezi/internal/box"
	"hezi/internal/box/apparmor"
	"hezi/internal/box/seccomp"
	"hezi/internal/engine/spec"
)

// checkSecurity refuses security options that cannot hold here, before
// anything is made: nothing of them is left out in silence.
func (e *records) checkSecurity(h *container.HostConfig) error {
	s, err := spec.ParseSecurity(h.SecurityOpt)
	if err != nil {
		return err
	}
	profile, err := e.seccompProfile(h, s)
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
	if _, err := e.appArmorProfile(h, s); err != nil {
		return err
	}
	return checkLabels(s.Labels)
}

// checkLabels takes what asks for no SELinux label: this engine sets none.
func checkLabels(labels []string) error {
	for _, l := range labels {
		if l != "disable" {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
				"invalid --security-opt: \"label=%s\": SELinux is not enabled for this engine: leave it out, or write label=disable", l))
		}
	}
	return nil
}

// seccompProfile is the profile of a container's processes; nil is none.
// Privileged containers have one only if it is asked for.
func (e *records) seccompProfile(h *container.HostConfig, s *spec.Security) (*seccomp.Profile, error) {
	switch s.Seccomp {
	case "":
		if h.Privileged {
			return nil, nil
		}
		return e.o.Seccomp, nil
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
func (e *records) appArmorProfile(h *container.HostConfig, s *spec.Security) (string, error) {
	name := s.AppArmor
	switch {
	case name == spec.Unconfined, name == "" && h.Privileged:
		return "", nil
	case name == "" && e.o.AppArmor:
		return apparmor.Default, nil
	case name == "":
		return "", nil
	case !e.o.AppArmor:
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

// confine gives a process the walls of its container that are the process's own,
// also to an exec with more capabilities than the container's caps.
func (e *records) confine(p *box.Process, h *container.HostConfig, s *spec.Security, caps []string) error {
	p.NoNewPrivileges = e.o.Defaults.NoNewPrivileges
	if s.NoNewPrivileges != nil {
		p.NoNewPrivileges = *s.NoNewPrivileges
	}
	profile, err := e.seccompProfile(h, s)
	if err != nil {
		return err
	}
	if p.AppArmorProfile, err = e.appArmorProfile(h, s); err != nil {
		return err
	}
	p.Seccomp, p.SeccompFlags, err = seccomp.Compile(profile, caps, runtime.GOARCH)
	return err
}

// lostProfile says whether a start failed since the default AppArmor profile
// is not loaded.
func lostProfile(err error) bool {
	b, ok := errors.AsType[*box.Error](err)
	return ok && b.Step == box.StepAppArmor && b.Subject == apparmor.Default && b.Errno == int(unix.ENOENT)
}

// shownAppArmor is a container's profile as inspect has it: "" where the kernel
// has none.
func (e *records) shownAppArmor(h *container.HostConfig) string {
	if !e.o.AppArmor {
		return ""
	}
	s, err := spec.ParseSecurity(h.SecurityOpt)
	if err != nil {
		return ""
	}
	name, err := e.appArmorProfile(h, s)
	if err == nil && name == "" {
		return spec.Unconfined
	}
	return name
}
