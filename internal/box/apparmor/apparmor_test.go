package apparmor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/apparmor"
)

// TestPackaged fails when the profile of the packages is not the built-in one any more.
func TestPackaged(t *testing.T) {
	dir := t.TempDir()
	made := filepath.Join(dir, "made")
	parser := "#!/bin/sh\ncp \"$2\" " + made + "\n"
	if err := os.WriteFile(filepath.Join(dir, "apparmor_parser"), []byte(parser), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if err := moby.InstallDefault(Default); err != nil {
		t.Fatal(err)
	}
	built, packaged := rules(t, made), rules(t, "../../../packaging/apparmor/hezi-default")
	if !slices.Contains(built, "deny mount,") {
		t.Fatalf("the library has made no profile: %q", built)
	}
	for _, r := range built {
		if !slices.Contains(packaged, r) {
			t.Errorf("the packages' profile lacks %q", r)
		}
	}
	for _, r := range packaged {
		if !slices.Contains(built, r) {
			t.Errorf("the built-in profile lacks %q", r)
		}
	}
}

// rules are a profile's lines without comments and what it includes, which depends on
// the machine.
func rules(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" && line != "@{PROC}=/proc/" {
			list = append(list, line)
		}
	}
	return list
}
