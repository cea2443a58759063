package cli

import (
	"runtime"
	"testing"

	"hezi/internal/cli/format"
)

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/arm64/v8": "linux/arm64", "linux/aarch64": "linux/arm64",
		"linux/arm": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "linux/armhf": "linux/arm/v7", "linux/arm/7": "linux/arm/v7",
		"arm64": "linux/arm64", "LINUX/AMD64": "linux/amd64", "linux": "linux/" + runtime.GOARCH, "linux/386": "linux/386",
	} {
		p, err := parsePlatform(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := format.Platform(p.OS, p.Architecture, p.Variant); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "/", "linux/", "a/b/c/d", "linux/am d64", "linux//v7"} {
		if p, err := parsePlatform(in); err == nil {
			t.Errorf("%q became %+v", in, p)
		}
	}
}
