package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"hezi/internal/cli"
)

// TestCommitted fails when the reference says another thing than the command line does.
func TestCommitted(t *testing.T) {
	const dir = "../../docs/reference"
	all := pages(cli.Tree())
	for name, want := range all {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("docs/reference/%s is not what the command line says (error: %v): make docs", name, err)
		}
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range have {
		if all[f.Name()] == nil {
			t.Errorf("docs/reference/%s is of no command: make docs", f.Name())
		}
	}
}

// TestEnvironment fails when a page would depend on who makes it.
func TestEnvironment(t *testing.T) {
	before := pages(cli.Tree())
	for name, value := range map[string]string{"DOCKER_TLS": "1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs", "DOCKER_DEFAULT_PLATFORM": "linux/arm64"} {
		t.Setenv(name, value)
	}
	after := pages(cli.Tree())
	for name, text := range before {
		if !bytes.Equal(text, after[name]) {
			t.Errorf("%s changes with the environment", name)
		}
		if home, err := os.UserHomeDir(); err != nil || bytes.Contains(text, []byte(home+"/")) {
			t.Errorf("%s names the home directory of who makes it (error: %v)", name, err)
		}
	}
}
