package engine

import (
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"

	"hezi/internal/box"
	"hezi/internal/engine/labels"
	"hezi/internal/engine/spec"
)

// labeller gives containers SELinux labels, where those are enabled.
type labeller struct{ *records }

// assign gives a new container its labels.
func (e labeller) assign(r *record) error {
	h := r.HostConfig
	security, err := spec.ParseSecurity(h.SecurityOpt)
	if err != nil {
		return err
	}
	of := func(ref string) *labels.Pair {
		if ref == "" {
			return nil
		}
		c, err := e.entry(ref)
		if err != nil { // gone meanwhile: the start says so
			return nil
		}
		return &c.latest.Load().Labels
	}
	r.Labels, err = labels.Assign(h, security.Labels, of(h.IpcMode.Container()), of(h.PidMode.Container()))
	return err
}

// giveBack lets others have the categories of a container that is removed, or was
// not made, once none is left that has them too.
func (e labeller) giveBack(r *record) {
	for _, o := range e.all() {
		if o.ID != r.ID && o.Labels.Together(r.Labels) {
			return
		}
	}
	r.Labels.Release()
}

// apply labels what the container's box has, and what the host has for it.
func (e labeller) apply(r *record, s *box.Spec) error {
	l := r.Labels
	if l.Files == "" {
		return nil
	}
	s.Process.SELinuxLabel, s.FileLabel = l.Process, l.Files
	if s.Root.Overlay == nil || e.o.Layers.Name() == "erofs" { // whose layers are mounted without labels
		return errdefs.ErrNotImplemented.WithMessage("the storage driver " + e.o.Layers.Name() + " cannot give a container's files SELinux labels: use overlay2, or --security-opt label=disable")
	}
	s.Root.Overlay.Label = l.Files
	for i := range s.Mounts {
		if layers := s.Mounts[i].Layers; layers != nil {
			layers.Label = l.Files
		}
	}
	owner := r
	files := l.Files
	if r.HostConfig.NetworkMode.IsContainer() {
		files = l.Shared()
		var err error
		if owner, err = (launcher(e)).joined(r); err != nil {
			return err
		}
	} else if neighbourly(e.records, r) {
		files = l.Shared()
	}
	for _, name := range etc {
		if err := labels.RelabelFile(e.etcFile(owner, name), files); err != nil {
			return err
		}
	}
	return nil
}

// neighbourly says whether a container that runs is in the network of r, and so
// reads its files of /etc.
func neighbourly(e *records, r *record) bool {
	for _, o := range e.all() {
		if mode := o.HostConfig.NetworkMode; o.ID != r.ID && mode.IsContainer() && o.running() {
			if c, err := e.entry(mode.ConnectedContainer()); err == nil && c.latest.Load().ID == r.ID {
				return true
			}
		}
	}
	return false
}

// relabel does what z and Z ask for. A volume that does not say it is shared, as
// with dockerd; one that is taken over keeps what it was given.
func (r *record) relabel(p spec.Point, source string) error {
	mode := p.Mode
	if mode == "" && p.Type == mount.TypeVolume && !p.Inherited {
		mode = "z"
	}
	return labels.Relabel(filepath.Clean(source), p.Subpath, r.Labels.ForMode(mode))
}
