package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestList(t *testing.T) {
	const root = "../.."
	client := filepath.Join(t.TempDir(), "hezi")
	build := exec.Command("go", "build", "-trimpath", "-o", client, "./cmd/hezi")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := list("v1", []string{client, filepath.Join(root, "internal/box/initbin/bin/hezi-tiny")}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	refs := []string{b.Metadata.Component.Ref}
	for _, c := range b.Components {
		if slices.Contains(refs, c.Ref) {
			t.Errorf("%s is there twice", c.Ref)
		}
		refs = append(refs, c.Ref)
		if c.Type == "library" && (c.Version == "" || c.Version == "(devel)") {
			t.Errorf("%s has no version", c.Name)
		}
		if c.Name == "github.com/distribution/reference" && c.Pedigree == nil {
			t.Error("a module that a folder of ours replaces is not said to be changed")
		}
	}
	for _, want := range []string{"pkg:golang/stdlib@", "pkg:golang/github.com/distribution/reference@v", "pkg:golang/github.com/spf13/cobra@v"} {
		if !slices.ContainsFunc(refs, func(r string) bool { return len(r) > len(want) && r[:len(want)] == want }) {
			t.Errorf("nothing is %s…: %v", want, refs)
		}
	}
	for _, d := range b.Dependencies {
		for _, ref := range append(d.Deps, d.Ref) {
			if !slices.Contains(refs, ref) {
				t.Errorf("%s depends on %s, which is no component", d.Ref, ref)
			}
		}
		if d.Ref == "hezi/hezi-tiny" && len(d.Deps) > 0 || d.Ref == "hezi/hezi" && len(d.Deps) == 0 {
			t.Errorf("%s is made of %v", d.Ref, d.Deps)
		}
	}
	if _, err := list("v1", []string{"main.go"}, time.Unix(0, 0)); err == nil {
		t.Error("a text is taken for a program")
	}
}
