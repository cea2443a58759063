// Package labels gives containers their SELinux labels: which ones, and to the
// files of the host that are mounted into them.
//
// A container's processes have a label with a pair of categories that no other
// container has, and its files the same categories: that keeps containers from
// each other where their users do not.
package labels

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// Pair are the labels of a container; "" where SELinux is not enabled, and for
// a process that no label confines.
type Pair struct {
	Process string `json:",omitempty"`
	Files   string `json:",omitempty"`
}

// Enable switches labels on or off for the whole process, as selinux-enabled
// says. The warning is "" where what was asked for holds.
func Enable(asked bool) (warning string) {
	switch {
	case !asked:
		selinux.SetDisabled()
	case !selinux.GetEnabled():
		return "selinux-enabled: the kernel has SELinux not switched on, so containers have no labels: boot with security=selinux selinux=1, or remove the option"
	default:
		process, _, err := label.InitLabels(nil)
		selinux.ReleaseLabel(process)
		if err != nil || process == "" {
			return "selinux-enabled: " + noPolicy
		}
	}
	return ""
}

const noPolicy = "the policy in use names no labels of containers (contexts/lxc_contexts): install one that does, such as container-selinux, or Debian's selinux-policy-default"

// OfLayers gives the folders of layers the label of what containers may read: the
// kernel holds a program's memory against that of the file below the overlay. It
// walks what has another one, once, which may take minutes: log is told.
func OfLayers(log *slog.Logger, folders ...string) error {
	if !Enabled() {
		return nil
	}
	p, err := assign(nil)
	if err != nil {
		return err
	}
	defer p.Release()
	//lint:ignore SA1019 it has no other name
	l := selinux.ROFileLabel()
	if l == "" {
		l = p.Shared()
	}
	for _, f := range folders {
		if has(f, l) {
			continue
		}
		begun := time.Now()
		log.Info("SELinux: all files of images and containers are given the label that containers may read, which is done once", "folder", f, "label", l)
		if err := Relabel(f, "", l); err != nil {
			return err
		}
		log.Info("SELinux: they have it", "folder", f, "took", time.Since(begun).Round(time.Millisecond))
	}
	return nil
}

// Enabled says whether containers have labels.
func Enabled() bool { return selinux.GetEnabled() }

// Check refuses the values of --security-opt label= where there are no labels;
// elsewhere Assign does.
func Check(options []string) error {
	if Enabled() {
		return nil
	}
	for _, o := range options {
		if o != "disable" {
			return invalid("invalid --security-opt: \"label=%s\": SELinux is not enabled for this engine (selinux-enabled): leave it out, or write label=disable", o)
		}
	}
	return nil
}

// Assign gives a new container its labels by the options that it has, or those
// of the containers whose ipc and pid namespaces it joins (nil: none). They are
// its own until Release.
func Assign(h *container.HostConfig, options []string, ipc, pid *Pair) (Pair, error) {
	if !Enabled() {
		return Pair{}, nil
	}
	if len(options) == 0 {
		var err error
		if options, err = implied(h, ipc, pid); err != nil {
			return Pair{}, err
		}
	}
	return assign(options)
}

// implied are the options of a container that has none, as dockerd has them.
func implied(h *container.HostConfig, ipc, pid *Pair) ([]string, error) {
	if h.IpcMode.IsHost() || h.PidMode.IsHost() || h.Privileged {
		return selinux.DisableSecOpt(), nil
	}
	var options []string
	for _, p := range []*Pair{pid, ipc} {
		if p == nil {
			continue
		}
		theirs, err := selinux.DupSecOpt(p.Process)
		if err != nil {
			return nil, fmt.Errorf("the label of the container that is joined: %w", err)
		}
		if options != nil && theirs != nil && !slices.Equal(options, theirs) {
			return nil, errdefs.ErrInvalidArgument.WithMessage("--ipc and --pid containers SELinux labels aren't the same") // dockerd's words
		}
		if options == nil {
			options = theirs
		}
	}
	return options, nil
}

func assign(options []string) (Pair, error) {
	process, files, err := label.InitLabels(options)
	if err != nil {
		return Pair{}, invalid("invalid --security-opt: %v", err)
	}
	p := Pair{Process: process, Files: files}
	if process == "" && len(options) > 0 && !slices.Contains(options, "disable") {
		return Pair{}, errdefs.ErrInvalidArgument.WithMessage("invalid --security-opt: label=" + options[0] + ": " + noPolicy)
	}
	for _, l := range []string{process, files} {
		if l == "" {
			continue
		}
		if err := selinux.SecurityCheckContext(l); err != nil {
			if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "level:") }) { // which may be another's too
				p.Release()
			}
			return Pair{}, invalid("invalid --security-opt: the SELinux policy in use knows no label %q: %v", l, err)
		}
	}
	return p, nil
}

// Reserve keeps the categories of a container from before from being given to another.
func (p Pair) Reserve() error {
	if err := selinux.ReserveLabelV2(p.Process); err != nil && !errors.Is(err, selinux.ErrMCSAlreadyExists) { // of a pod, two have the same
		return err
	}
	return nil
}

// Together says whether another container has the same categories: Release would
// give them away.
func (p Pair) Together(other Pair) bool { return level(p) != "" && level(p) == level(other) }

func level(p Pair) string {
	c, err := selinux.NewContext(p.Process)
	if err != nil {
		return ""
	}
	return c["level"]
}

// Release lets the categories be given to another container.
func (p Pair) Release() { selinux.ReleaseLabel(p.Process) }

// Shared is the label of files that all containers may use.
func (p Pair) Shared() string {
	c, err := selinux.NewContext(p.Files)
	if err != nil || p.Files == "" {
		return p.Files
	}
	if c["level"] != "" {
		c["level"] = "s0"
	}
	return c.Get()
}

// ForMode is what -v's z and Z ask for; "": the files keep their labels.
func (p Pair) ForMode(mode string) string {
	for m := range strings.SplitSeq(mode, ",") {
		switch m {
		case "z":
			return p.Shared()
		case "Z":
			return p.Files
		}
	}
	return ""
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
