// Package hooks has the hooks of CDI devices run for containers of the engine's
// own runtime. The keeper and init run those of the start; the engine those that
// come after it, since it is told of every end, also of one that it missed.
//
//	EXECROOT/hooks/ID/config.json   the bundle that hooks read: root, mounts, environment
//	EXECROOT/hooks/ID/rootfs        where they see the root file system, in the container's mount namespace
package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hezi/internal/box"
	"hezi/internal/box/hooks"
)

// After is what is to be run once a container has started, and when it has ended.
type After struct {
	State               specs.State
	Poststart, Poststop []specs.Hook `json:",omitempty"`
}

// version of the OCI runtime specification: one that all hooks know.
const version = "1.0.2"

// Prepare has the hooks be run when the box is made, and writes their bundle below
// dir. It is to be stored before that: Ended undoes it.
func Prepare(dir string, s *box.Spec, h *specs.Hooks, annotations map[string]string) (*After, error) {
	bundle := filepath.Join(dir, s.ID)
	root := filepath.Join(bundle, "rootfs")
	// Root of a user namespace goes through them.
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, err
	}
	text, err := json.Marshal(config(s, root, annotations))
	if err != nil {
		return nil, err
	}
	// It may have secrets. Hooks in a user namespace run as its root.
	file := filepath.Join(bundle, "config.json")
	err = os.WriteFile(file, text, 0o600)
	if err == nil && s.Users != nil {
		uid, gid, _ := s.Users.Root()
		err = os.Chown(file, int(uid), int(gid))
	}
	if err != nil {
		return nil, err
	}
	state := specs.State{Version: version, ID: s.ID, Bundle: bundle, Annotations: annotations}
	//lint:ignore SA1019 older specifications have them
	s.Hooks = &box.Hooks{Root: root, State: state, Prestart: h.Prestart, CreateRuntime: h.CreateRuntime, CreateContainer: h.CreateContainer, StartContainer: h.StartContainer}
	return &After{State: state, Poststart: h.Poststart, Poststop: h.Poststop}, nil
}

// config is what hooks may want to know of the container.
func config(s *box.Spec, root string, annotations map[string]string) *specs.Spec {
	p := &s.Process
	c := &specs.Spec{
		Version: version, Hostname: s.Hostname, Annotations: annotations, Root: &specs.Root{Path: root, Readonly: s.Root.ReadOnly},
		Process: &specs.Process{Args: p.Args, Env: p.Env, Cwd: p.Cwd, Terminal: p.Terminal}, Linux: &specs.Linux{},
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		one := specs.Mount{Destination: m.Target, Type: m.Type, Source: m.Source}
		if m.ReadOnly {
			one.Options = append(one.Options, "ro")
		}
		c.Mounts = append(c.Mounts, one)
	}
	return c
}

// Started runs the hooks of a container that has just started, of which pid is the
// first process.
func (a *After) Started(ctx context.Context, pid int) error {
	state := a.State
	state.Status, state.Pid = specs.StateRunning, pid
	return hooks.Run(ctx, a.Poststart, state, "poststart")
}

// Drop removes the bundle of a start that was given up before any hook, for the
// reason that it returns. a may be nil.
func (a *After) Drop(reason error) error {
	if a == nil {
		return reason
	}
	return errors.Join(reason, os.RemoveAll(a.State.Bundle))
}

// Sweep removes the bundles below dir that nobody knows.
func Sweep(dir string, known func(id string) bool) error {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, d := range list {
		if !known(d.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, d.Name())))
		}
	}
	return errors.Join(errs...)
}

// endTime is how long all that runs at an end may take, also without a timeout of
// its own: the container's next start waits for it.
const endTime = time.Minute

// Ended runs the hooks of a container that has ended, or has not started, and
// removes the bundle.
func (a *After) Ended(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	state := a.State
	state.Status = specs.StateStopped
	var errs []error
	for _, h := range a.Poststop { // each, whatever became of the others
		errs = append(errs, hooks.Run(ctx, []specs.Hook{h}, state, "poststop"))
	}
	return errors.Join(append(errs, os.RemoveAll(a.State.Bundle))...)
}
