package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image"
)

// Transfers is what the handlers need that send images elsewhere.
// *image.Service has it.
type Transfers interface {
	Push(ctx context.Context, r image.PushRequest, p image.Progress) error
	Save(ctx context.Context, refs []string, platforms []ocispec.Platform) (*image.Archive, error)
}

var transferRoutes = []route{
	{method: "POST", path: "/images/{name...}/push", handle: imagePush},
	{method: "GET", path: "/images/get", handle: func(c *call) error { return imageSave(c, c.query()["names"]) }},
	{method: "GET", path: "/images/{name...}/get", handle: func(c *call) error { return imageSave(c, []string{c.arg}) }},
}

func imagePush(c *call) error {
	auth, err := c.registryAuth()
	if err != nil {
		return err
	}
	r := image.PushRequest{Reference: withTag(c.arg, c.get("tag")), Auth: auth, Headers: metaHeaders(c.r.Header)}
	if c.version >= 46 { // older clients may send it, and do not mean it
		if r.Platform, err = platformJSON(c.get("platform")); err != nil {
			return err
		}
	}
	out := c.progress()
	return out.end(c.backend.Transfers.Push(c.ctx(), r, out.send))
}

func imageSave(c *call, names []string) error {
	list, err := c.platforms()
	if err != nil {
		return err
	}
	a, err := c.backend.Transfers.Save(c.ctx(), names, list)
	if err != nil {
		return err
	}
	defer a.Close()
	c.w.Header().Set("Content-Type", "application/x-tar")
	c.w.Header().Set("Content-Length", strconv.FormatInt(a.Size(), 10))
	c.w.WriteHeader(http.StatusOK)
	return cutOff(c, a.Write(c.w))
}

// cutOff ends an answer of which a part is sent: the client sees that the rest
// is missing, and no error in the middle of an archive.
func cutOff(c *call, err error) error {
	if err == nil {
		return nil
	}
	if c.ctx().Err() == nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) { // else the client has gone
		c.log.Error("an archive could not be sent whole", "path", c.r.URL.Path, "error", err)
	}
	panic(http.ErrAbortHandler)
}

// platforms reads the parameter of save and load: one since API 1.48, several
// since 1.52.
func (c *call) platforms() ([]ocispec.Platform, error) {
	if c.version < 48 {
		return nil, nil
	}
	values := c.query()["platform"]
	if c.version < 52 && len(values) > 1 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("multiple platform parameters are not supported in this API version; use API version 1.52 or later")
	}
	return platformList(values)
}
