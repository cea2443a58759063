package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed are the modules that the client links. It starts in milliseconds
// because they are few and do little at start: before you add one, look at
// what GODEBUG=inittrace=1 says of it.
var allowed = []string{
	"hezi",
	"github.com/cespare/xxhash/v2", // of otel
	"github.com/containerd/errdefs",
	"github.com/containerd/errdefs/pkg",
	"github.com/containerd/log",         // of go-archive
	"github.com/distribution/reference", // its regular expressions are the dearest init of all; moby's client needs it
	"github.com/docker/cli",
	"github.com/docker/docker-credential-helpers",
	"github.com/docker/go-connections",
	"github.com/docker/go-units",
	"github.com/felixge/httpsnoop", // of otelhttp
	"github.com/fvbommel/sortorder",
	"github.com/go-logr/logr",       // of otel
	"github.com/go-logr/stdr",       // of otel
	"github.com/klauspost/compress", // of go-archive
	"github.com/moby/docker-image-spec",
	"github.com/moby/go-archive", // cp: the rules of paths, and unpacking that stays in its folder
	"github.com/moby/moby/api",
	"github.com/moby/moby/client",
	"github.com/moby/patternmatcher", // of go-archive
	"github.com/moby/sys/atomicwriter",
	"github.com/moby/sys/sequential",
	"github.com/moby/sys/signal",
	"github.com/moby/sys/user",   // of go-archive
	"github.com/moby/sys/userns", // of go-archive
	"github.com/moby/term",
	"github.com/opencontainers/go-digest",
	"github.com/opencontainers/image-spec",
	"github.com/sirupsen/logrus",
	"github.com/spf13/cobra",
	"github.com/spf13/pflag",
	"go.opentelemetry.io/auto/sdk",
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp", // of moby's client: 0.1 ms at start
	"go.opentelemetry.io/otel",
	"go.opentelemetry.io/otel/metric",
	"go.opentelemetry.io/otel/trace",
	"golang.org/x/sys",
}

// rooms are the packages of Hezi that the client may link.
var rooms = []string{"hezi/cmd/hezi", "hezi/internal/cli", "hezi/internal/version"}

func TestDependencies(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{end}}{{.ImportPath}}", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		module, pkg, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue // the standard library
		}
		if !slices.Contains(allowed, module) {
			t.Errorf("hezi links %s of %s, which is not in the list of what it may link", pkg, module)
		}
		if module == "hezi" && !slices.ContainsFunc(rooms, func(r string) bool { return pkg == r || strings.HasPrefix(pkg, r+"/") }) {
			t.Errorf("hezi links the room %s: the client speaks HTTP to it", pkg)
		}
		if strings.HasPrefix(pkg, "github.com/docker/cli/cli/command") {
			t.Errorf("hezi links %s, which costs more at start than the client's whole budget", pkg)
		}
	}
}
