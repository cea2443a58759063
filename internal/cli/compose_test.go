package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
)

func TestFindCompose(t *testing.T) {
	dir := t.TempDir()
	old := config.Dir()
	config.SetDir(filepath.Join(dir, "config"))
	t.Cleanup(func() { config.SetDir(old) })
	t.Setenv("PATH", filepath.Join(dir, "path"))
	put := func(folder string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, folder, "docker-compose")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := &configfile.ConfigFile{CLIPluginsExtraDirs: []string{filepath.Join(dir, "extra")}}
	if path, err := findCompose(cfg); err == nil && !strings.HasPrefix(path, "/usr/") || err != nil && !strings.Contains(err.Error(), "Install it") {
		t.Errorf("nowhere: %q, %v", path, err)
	}
	put("config/cli-plugins", 0o644) // not a program
	for _, folder := range []string{"path", "extra", "config/cli-plugins"} {
		os.Remove(filepath.Join(dir, folder, "docker-compose"))
		want := put(folder, 0o755)
		if got, err := findCompose(cfg); err != nil || got != want && folder != "path" {
			t.Errorf("%q, %v, not %q", got, err, want)
		}
	}
}

func TestWithSettings(t *testing.T) {
	got := withSettings([]string{"A=1", "B=2", "C=3=4"}, map[string]string{"A": "", "B": "x", "D": "y"})
	slices.Sort(got)
	if want := []string{"B=x", "C=3=4", "D=y"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}
