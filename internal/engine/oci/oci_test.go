package oci

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/system"
)

func TestDeclarations(t *testing.T) {
	opts := func(kv ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name string
		d    system.Runtime
		path string // or the error has it
	}{
		{"a", system.Runtime{Path: "crun"}, "crun"},
		{"a", system.Runtime{Path: "/opt/crun", Args: []string{"--debug"}}, "/opt/crun"},
		{"a", system.Runtime{Type: shim}, "runc"},
		{"a", system.Runtime{Type: shim, Options: opts("BinaryName", "/x/y", "Root", "/run/z", "SystemdCgroup", false)}, "/x/y"},
		{"a", system.Runtime{}, "runtime a: either a runtimeType or a path must be configured"},
		{"a", system.Runtime{Path: "x", Type: shim}, "cannot configure both path and runtimeType"},
		{"a", system.Runtime{Path: "x", Options: opts("Root", "/")}, "options cannot be used with a path runtime"},
		{"a", system.Runtime{Type: shim, Args: []string{"x"}}, "args cannot be used with a runtimeType runtime"},
		{"a", system.Runtime{Type: "io.containerd.kata.v2"}, "is a shim of containerd's"},
		{"a", system.Runtime{Type: shim, Options: opts("SystemdCgroup", true)}, "SystemdCgroup=true cannot be honoured"},
		{"a", system.Runtime{Type: shim, Options: opts("Root", "relative")}, "Root=relative cannot be honoured"},
		{"a", system.Runtime{Type: shim, Options: opts("NoPivotRoot", true)}, "NoPivotRoot=true cannot be honoured"},
		{"a", system.Runtime{Path: "./x"}, "must be absolute"},
		{"hezi", system.Runtime{Path: "x"}, "runtime name 'hezi' is reserved"},
		{"a/b", system.Runtime{Path: "x"}, "invalid runtime name"},
	} {
		r, err := New(map[string]system.Runtime{c.name: c.d}, "")
		if err != nil {
			if !strings.Contains(err.Error(), c.path) {
				t.Errorf("%s %+v: %v, not %q", c.name, c.d, err, c.path)
			}
			continue
		}
		if got, err := r.Find(c.name); err != nil || got == nil || got.Path != c.path {
			t.Errorf("%s %+v: %+v, %v", c.name, c.d, got, err)
		}
	}
}

func TestFind(t *testing.T) {
	r, err := New(map[string]system.Runtime{"crun": {Path: "/opt/crun"}, "debug": {Path: "/opt/debug", Args: []string{"-v"}}, "sh": {Path: "sh"}}, "crun")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "crun", "crun": "crun", "/opt/crun": "crun", "hezi": "", "runc": "", shim: ""} {
		got, err := r.Find(name)
		switch {
		case err != nil, (got == nil) != (want == ""), got != nil && got.Name != want:
			t.Errorf("%q: %+v, %v, not %q", name, got, err, want)
		}
	}
	for _, name := range []string{"kata", "/bin/true", "/opt/debug", "../crun"} {
		if _, err := r.Find(name); err == nil || err.Error() != "unknown or invalid runtime name: "+name {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := r.Set(map[string]system.Runtime{"runc": {Path: "runc"}}, "crun"); err == nil || r.Default() != "crun" {
		t.Errorf("a default that is not there: %v, %s", err, r.Default())
	}
	if err := r.Set(map[string]system.Runtime{"runc": {Path: "runc"}}, "runc"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Find("runc"); err != nil || got == nil {
		t.Errorf("a declared runc: %+v, %v", got, err)
	}
	if list := r.List("/own"); len(list) != 2 || list[Own].Path != "/own" {
		t.Errorf("list: %+v", list)
	}
}
