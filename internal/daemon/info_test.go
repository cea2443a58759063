package daemon

import (
	"reflect"
	"testing"

	"hezi/internal/daemon/config"
)

// TestMirrorsShown: as Docker shows them, URLs end with a slash.
func TestMirrorsShown(t *testing.T) {
	r := registryConfig(&config.Config{
		RegistryMirrors: []string{"https://a.example", "http://b.example/x/", "c.example:5000"},
		MirrorsOf:       map[string][]string{"ghcr.io": {"https://d.example"}},
	})
	want := []string{"https://a.example/", "http://b.example/x/", "c.example:5000"}
	if !reflect.DeepEqual(r.Mirrors, want) || !reflect.DeepEqual(r.IndexConfigs["docker.io"].Mirrors, want) {
		t.Errorf("Docker Hub's: %q and %q, want %q", r.Mirrors, r.IndexConfigs["docker.io"].Mirrors, want)
	}
	if got := r.IndexConfigs["ghcr.io"].Mirrors; !reflect.DeepEqual(got, []string{"https://d.example/"}) {
		t.Errorf("another registry's: %q", got)
	}
}
