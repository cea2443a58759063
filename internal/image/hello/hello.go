// Package hello holds the content of the built-in image hezi/hello: one
// static program (cmd/hezi-hello, embedded) and the few files beside it. The
// image room makes the layer, manifest and name of it. The content follows
// from the program alone, so the same build always gives the same digests.
//
//	/hello        0755  the program
//	/etc/passwd   0644  root and nobody
//	/etc/group    0644  root and nobody
//	/tmp          1777
package hello

import (
	"embed"
	"errors"
	"io/fs"
	"runtime"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Name of the image, in familiar form.
const Name = "hezi/hello:latest"

//go:embed all:bin
var programs embed.FS

// ErrNotBuilt means that this engine was compiled without the program.
var ErrNotBuilt = errors.New("the image hezi/hello is not built into this engine: build it with `make build`, not with go build alone")

// File is one entry of the image's file system, owned by root.
type File struct {
	Path string      // absolute, clean
	Mode fs.FileMode // permission bits, fs.ModeDir and fs.ModeSticky
	Data []byte      // nil for a directory; must not be changed
}

// Files gives the whole file system in the order of a layer: by path, parents
// before children. The error is ErrNotBuilt.
func Files() ([]File, error) { return files(programs) }

func files(from fs.ReadFileFS) ([]File, error) {
	program, err := from.ReadFile("bin/hezi-hello")
	if err != nil {
		return nil, ErrNotBuilt
	}
	return []File{
		{"/etc", fs.ModeDir | 0o755, nil},
		{"/etc/group", 0o644, []byte("root:x:0:\nnobody:x:65534:\n")},
		{"/etc/passwd", 0o644, []byte("root:x:0:0:root:/:/hello\nnobody:x:65534:65534:nobody:/:/hello\n")},
		{"/hello", 0o755, program},
		{"/tmp", fs.ModeDir | fs.ModeSticky | 0o777, nil},
	}, nil
}

// Config is the image's config without RootFS and History, which the caller
// fills in once it has made the layer. The program is the entry point, so
// that `hezi run hezi/hello serve` gives it "serve" as an argument.
func Config() dockerspec.DockerOCIImage {
	var c dockerspec.DockerOCIImage
	c.Architecture, c.OS = runtime.GOARCH, "linux"
	c.Config.Entrypoint = []string{"/hello"}
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	c.Config.WorkingDir = "/"
	c.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}}
	c.Config.Labels = map[string]string{
		ocispec.AnnotationTitle:       "hezi/hello",
		ocispec.AnnotationDescription: "Greets from inside a container and shows what it looks like there; `serve` does so as a web page",
	}
	return c
}
