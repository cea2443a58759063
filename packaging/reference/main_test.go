package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"hezi/internal/cli"
)

// TestCommitted fails when the reference says another thing than the command line does,
// and when a sentence of the command line has no translation or a translation no sentence.
func TestCommitted(t *testing.T) {
	for _, l := range languages() {
		all, err := pages(cli.Tree(), l)
		if err != nil {
			t.Error(err)
		}
		for name, want := range all {
			got, err := os.ReadFile(filepath.Join("../..", l.Dir, name))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s/%s is not what the command line says (error: %v): make docs", l.Dir, name, err)
			}
		}
		have, err := os.ReadDir(filepath.Join("../..", l.Dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range have {
			if all[f.Name()] == nil {
				t.Errorf("%s/%s is of no command: make docs", l.Dir, f.Name())
			}
		}
	}
}

// TestTranslations shows that what is missing and what is left over is named.
func TestTranslations(t *testing.T) {
	l := languages()[1]
	l.Texts = maps.Clone(l.Texts)
	delete(l.Texts, "Manage containers")
	delete(l.Texts, "Working directory inside the container")
	l.Texts["An option that went away"] = "已经没有的选项"
	_, err := pages(cli.Tree(), l)
	if err == nil {
		t.Fatal("nothing is missed")
	}
	for _, want := range []string{`no translation of "Manage containers"`, `no translation of "Working directory inside the container"`, `does not say: "An option that went away"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
}

// TestMore holds that a long description is not cut in the middle of a sentence.
func TestMore(t *testing.T) {
	for _, c := range []struct{ short, long, want string }{
		{"Rename a volume", "", ""},
		{"Rename a volume", "Rename a volume.", ""},
		{"Rename a volume", "Rename a volume that no container has.", "Rename a volume that no container has."},
		{"Remove volumes", "Remove volumes. Those in use stay.", "Those in use stay."},
		{"Log out", "Log out.\nOf Docker Hub by default.", "Of Docker Hub by default."},
		{"Create a context", "Create a context\n\nKeys:\n  ca", "Keys:\n  ca"},
		{"Copy files", "Copies whole folders, too.", "Copies whole folders, too."},
	} {
		if got := more(&cobra.Command{Short: c.short, Long: c.long}); got != c.want {
			t.Errorf("of %q and %q: %q, not %q", c.short, c.long, got, c.want)
		}
	}
}

// TestEnvironment fails when a page would depend on who makes it.
func TestEnvironment(t *testing.T) {
	for i := range languages() {
		before, _ := pages(cli.Tree(), languages()[i])
		t.Run(languages()[i].Dir, func(t *testing.T) {
			for name, value := range map[string]string{"DOCKER_TLS": "1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs", "DOCKER_DEFAULT_PLATFORM": "linux/arm64"} {
				t.Setenv(name, value)
			}
			after, _ := pages(cli.Tree(), languages()[i])
			for name, text := range before {
				if !bytes.Equal(text, after[name]) {
					t.Errorf("%s changes with the environment", name)
				}
				if home, err := os.UserHomeDir(); err != nil || bytes.Contains(text, []byte(home+"/")) {
					t.Errorf("%s names the home directory of who makes it (error: %v)", name, err)
				}
			}
		})
	}
}
