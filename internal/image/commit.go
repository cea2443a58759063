package image

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/changes"
)

// CommitRequest makes an image of another one and what a container changed.
type CommitRequest struct {
	Base            *Image    // the container's image
	Layer           io.Reader // tar of the changes with whiteouts; nil: there are none
	Reference       string    // "" leaves the image without a name
	Author, Message string
	Config          dockerspec.DockerOCIImageConfig
	Changes         []string // Dockerfile instructions
	CreatedBy       string   // for the history: the container's command
}

// Check says what is wrong with a request before anything is read or paused.
// Config has the Changes afterwards.
func (r *CommitRequest) Check() error {
	if r.Reference != "" {
		named, err := parseName(r.Reference)
		if err != nil {
			return err
		}
		if _, digested := named.(reference.Digested); digested {
			return errdefs.ErrInvalidArgument.WithMessage("cannot commit to digest reference: give a name and a tag")
		}
	}
	err := changes.Apply(&r.Config, r.Changes)
	r.Changes = nil
	return err
}

// Commits make images of containers.
type Commits struct{ *Service }

// Commit makes the image and returns its id and, if it has one, its name as
// users write it. r has been checked.
func (s Commits) Commit(ctx context.Context, r CommitRequest) (id digest.Digest, name string, err error) {
	lctx, release, err := s.lease(ctx)
	if err != nil {
		return "", "", err
	}
	done := false
	defer func() {
		release()
		if !done {
			s.collectLater()
		}
	}()
	var manifest ocispec.Manifest
	var config dockerspec.DockerOCIImage
	if r.Base.Manifest.Digest != "" { // else the image is made of nothing
		if err := s.readJSON(lctx, r.Base.Manifest, &manifest); err != nil {
			return "", "", err
		}
		if err := s.readJSON(lctx, manifest.Config, &config); err != nil {
			return "", "", err
		}
	}
	layers := manifest.Layers
	if r.Layer != nil {
		blob, diffID, err := s.writeLayer(lctx, r.Layer)
		if err != nil {
			return "", "", err
		}
		layers = append(layers, blob)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	now := time.Now().UTC()
	if r.Author != "" {
		config.Author = r.Author
	}
	config.Created, config.Config = &now, r.Config
	config.History = append(config.History, ocispec.History{Created: &now, CreatedBy: r.CreatedBy, Author: config.Author, Comment: r.Message, EmptyLayer: r.Layer == nil})
	target, err := s.assemble(lctx, config, layers)
	if err != nil {
		return "", "", err
	}
	if r.Reference == "" {
		err = s.setDangling(lctx, target)
	} else {
		var named reference.Named
		if named, err = parseName(r.Reference); err == nil {
			name = reference.FamiliarString(named)
			err = s.setName(lctx, named.String(), target)
		}
	}
	if err != nil {
		return "", "", err
	}
	done = true
	s.publish("create", target.Digest.String(), strings.TrimSpace(name), nil)
	return target.Digest, name, nil
}
