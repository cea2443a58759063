package image

import (
	"context"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one platform of an image, resolved and held in memory.
type Image struct {
	// ID is what `images -q` shows: the digest of the image's target (the
	// index or manifest that its name points to), as Docker 29 has it.
	ID       digest.Digest
	Manifest ocispec.Descriptor // of this platform
	Config   dockerspec.DockerOCIImage
	// Names that point to the image now, in familiar form ("busybox:latest").
	Names []string
	// Layers are chain ids from the lowest to the topmost.
	Layers    []digest.Digest
	CreatedAt time.Time
}

// RootFS is an image's read-only file system, held until Release.
type RootFS struct {
	Lower []string // host paths, topmost first, for box.Overlay
}

// Progress receives what Docker's clients draw; it must not block for long.
type Progress func(jsonstream.Message)

// PullRequest asks for an image. Reference is what the user typed.
type PullRequest struct {
	Reference string
	All       bool              // every tag
	Platform  *ocispec.Platform // nil: the host's
	Auth      *registry.AuthConfig
	Headers   map[string][]string
}

// InUse says which containers use an image, for rmi's conflicts. The daemon
// wires it to the engine.
type InUse func(ctx context.Context, id digest.Digest) (running, stopped []string)

// ImportRequest is POST /images/create with fromSrc: a tar archive becomes an
// image of one layer.
type ImportRequest struct {
	Source    string    // "-" reads Body; otherwise an http or https URL
	Body      io.Reader // tar, plain or compressed
	Reference string    // "" leaves the image without a name
	Message   string
	Changes   []string // Dockerfile instructions
	Platform  *ocispec.Platform
}

// ListOptions of GET /images/json.
type ListOptions struct {
	All, SharedSize, Manifests bool
	Filters                    map[string]map[string]bool
}

// RemoveOptions of DELETE /images/{name}.
type RemoveOptions struct {
	Force, NoPrune bool
	Platforms      []ocispec.Platform
}
