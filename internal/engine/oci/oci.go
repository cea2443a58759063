// Package oci says which OCI runtimes containers may have: the engine's own, and
// those that the daemon's configuration declares, which are run by their command
// line.
package oci

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/system"

	"hezi/internal/runtimes"
)

// Own is the name of the engine's own runtime.
const Own = "hezi"

// shim is the one runtimeType that is understood: it stands for the command line
// that its options name.
const shim = "io.containerd.runc.v2"

// stock are Docker's names for the runtime that it comes with; undeclared, they
// mean the engine's own.
var stock = []string{"runc", shim}

// Registry has the runtimes. Its methods may be called from any goroutine.
type Registry struct{ now atomic.Pointer[table] }

type table struct {
	declared map[string]system.Runtime
	byName   map[string]runtimes.Runtime
	standard string
}

// New is a registry of the declared runtimes; standard is that of containers that
// do not say it, "" for the engine's own.
func New(declared map[string]system.Runtime, standard string) (*Registry, error) {
	r := &Registry{}
	return r, r.Set(declared, standard)
}

// Set replaces the declared runtimes. After an error all is as it was.
func (r *Registry) Set(declared map[string]system.Runtime, standard string) error {
	t := &table{declared: maps.Clone(declared), byName: map[string]runtimes.Runtime{}, standard: standard}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		one, err := read(name, declared[name])
		if err != nil {
			return err
		}
		t.byName[name] = one
	}
	if t.standard == "" {
		t.standard = Own
	}
	if _, err := t.find(t.standard); err != nil {
		return fmt.Errorf("specified default runtime '%s' does not exist: declare it in runtimes", standard) // Docker's words
	}
	r.now.Store(t)
	return nil
}

// read checks a declaration, in Docker's words.
func read(name string, d system.Runtime) (runtimes.Runtime, error) {
	out := runtimes.Runtime{Name: name, Path: d.Path, Args: d.Args}
	bad := func(format string, args ...any) (runtimes.Runtime, error) {
		return out, errors.New("runtime " + name + ": " + fmt.Sprintf(format, args...))
	}
	switch {
	case name == "" || strings.ContainsAny(name, "/ \t\n\x00"):
		return out, fmt.Errorf("invalid runtime name %q: write one without slashes and spaces", name)
	case name == Own:
		return out, fmt.Errorf("runtime name '%s' is reserved", name)
	case d.Path == "" && d.Type == "":
		return bad("either a runtimeType or a path must be configured")
	case d.Path != "" && d.Type != "":
		return bad("cannot configure both path and runtimeType for the same runtime")
	case d.Path != "" && len(d.Options) > 0:
		return bad("options cannot be used with a path runtime")
	case d.Type != "" && len(d.Args) > 0:
		return bad("args cannot be used with a runtimeType runtime")
	case d.Type != "" && d.Type != shim:
		return bad("the runtimeType %s is a shim of containerd's, which Hezi does not speak: give the path of a program with the OCI command line, as of runsc; %s is understood", d.Type, shim)
	}
	for _, key := range slices.Sorted(maps.Keys(d.Options)) {
		value := d.Options[key]
		text, isText := value.(string)
		switch {
		case key == "BinaryName" && isText:
			out.Path = text
		case key == "Root" && isText && filepath.IsAbs(text):
			out.Root = text
		case key == "TypeUrl" && value == "containerd.runc.v1.Options":
		case key == "SystemdCgroup" && value == false:
		case key == "SystemdCgroup":
			return bad("the option SystemdCgroup=%v cannot be honoured: Hezi places containers itself, in cgroupfs", value)
		default:
			return bad("the option %s=%v cannot be honoured: BinaryName and Root (an absolute path) can", key, value)
		}
	}
	if out.Path == "" {
		out.Path = "runc"
	}
	if strings.Contains(out.Path, "/") && !filepath.IsAbs(out.Path) || strings.ContainsRune(out.Path, 0) {
		return bad("the path %q must be absolute, or a name that is looked up in PATH", out.Path)
	}
	return out, nil
}

// find gives the runtime of a name; nil is the engine's own.
func (t *table) find(name string) (*runtimes.Runtime, error) {
	if name == "" {
		name = t.standard
	}
	if one, ok := t.byName[name]; ok {
		return &one, nil
	}
	if name == Own || slices.Contains(stock, name) {
		return nil, nil
	}
	if filepath.IsAbs(name) { // a declared one's: whoever may use the API must not choose programs of the host
		for _, key := range slices.Sorted(maps.Keys(t.byName)) {
			one := t.byName[key]
			if path, err := exec.LookPath(one.Path); len(one.Args) == 0 && (one.Path == name || err == nil && path == name) {
				return &one, nil
			}
		}
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage("unknown or invalid runtime name: " + name) // Docker's words
}

// Find gives the runtime that a container asks for, by name or by the path of a
// declared one; nil is the engine's own, and "" is Default.
func (r *Registry) Find(name string) (*runtimes.Runtime, error) {
	if r == nil {
		return (&table{standard: Own}).find(name)
	}
	return r.now.Load().find(name)
}

// Default is the runtime of containers that do not say it.
func (r *Registry) Default() string {
	if r == nil {
		return Own
	}
	return r.now.Load().standard
}

// List is what info shows; own is the path of the engine's own.
func (r *Registry) List(own string) map[string]system.RuntimeWithStatus {
	out := map[string]system.RuntimeWithStatus{Own: {Runtime: system.Runtime{Path: own}}}
	for name, d := range r.now.Load().declared {
		out[name] = system.RuntimeWithStatus{Runtime: d}
	}
	return out
}
