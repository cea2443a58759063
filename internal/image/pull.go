package image

import (
	"context"

	"github.com/containerd/errdefs"
)

// Pull gets an image from its registry.
func (s *Service) Pull(ctx context.Context, r PullRequest, show Progress) error {
	return errdefs.ErrNotImplemented
}
