package cli

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"
)

// platformFlag registers --platform, whose default is in the environment.
func platformFlag(f *pflag.FlagSet) *string {
	return f.String("platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
}

// parsePlatform reads os[/arch[/variant]], or an architecture alone.
func parsePlatform(s string) (ocispec.Platform, error) {
	bad := fmt.Errorf("%q: unknown operating system or architecture: write os/arch[/variant], for example linux/amd64", s)
	part := strings.Split(strings.ToLower(s), "/")
	if len(part) > 3 {
		return ocispec.Platform{}, bad
	}
	for _, p := range part {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_-.()") != "" {
			return ocispec.Platform{}, bad
		}
	}
	p := ocispec.Platform{OS: part[0], Architecture: runtime.GOARCH}
	switch len(part) {
	case 1:
		switch part[0] {
		case "linux", "windows", "darwin", "freebsd", "wasip1":
		default: // an architecture
			p.OS = "linux"
			p.Architecture, p.Variant = architecture(part[0], "")
		}
	case 2:
		p.Architecture, p.Variant = architecture(part[1], "")
	case 3:
		p.Architecture, p.Variant = architecture(part[1], part[2])
	}
	return p, nil
}

// architecture gives Go's names to what uname and others say.
func architecture(arch, variant string) (string, string) {
	switch arch {
	case "x86_64", "x86-64":
		arch = "amd64"
	case "i386", "i686":
		arch, variant = "386", ""
	case "aarch64":
		arch = "arm64"
	case "armhf":
		arch, variant = "arm", "v7"
	case "armel":
		arch, variant = "arm", "v6"
	}
	switch {
	case arch == "arm64" && (variant == "8" || variant == "v8"):
		variant = ""
	case arch == "amd64" && variant == "v1":
		variant = ""
	case arch == "arm" && variant == "":
		variant = "v7"
	case arch == "arm" && len(variant) == 1:
		variant = "v" + variant
	}
	return arch, variant
}

// platformList is the request's form of --platform: none or one.
func platformList(s string) ([]ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := parsePlatform(s)
	if err != nil {
		return nil, err
	}
	return []ocispec.Platform{p}, nil
}
