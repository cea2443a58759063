package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/authconfig"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image"
)

var imageRoutes = []route{
	{method: "GET", path: "/images/json", handle: imageList},
	{method: "POST", path: "/images/create", handle: imageCreate},
	{method: "POST", path: "/images/load", handle: imageLoad},
	{method: "GET", path: "/images/{name...}/json", handle: imageInspect},
	{method: "GET", path: "/images/{name...}/history", handle: imageHistory},
	{method: "GET", path: "/images/{name...}/attestations", handle: imageAttestations, since: 55},
	{method: "POST", path: "/images/{name...}/tag", handle: imageTag},
	{method: "DELETE", path: "/images/{name...}", handle: imageRemove},
}

func imageList(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	if old := c.get("filter"); old != "" && c.version < 41 { // the parameter before filters
		f["reference"] = map[string]bool{old: true}
	}
	list, err := c.backend.Images.List(c.ctx(), image.ListOptions{
		All: c.flag("all"), SharedSize: c.flag("shared-size"), Manifests: c.flag("manifests") || c.flag("identity"), Filters: f,
	})
	if err != nil {
		return err
	}
	if brief := c.r.Header.Get("Hezi-Brief"); brief != "" {
		return writeBrief(c, brief, list)
	}
	used, err := lastUsed(c)
	if err != nil {
		return err
	}
	return writeList(c, imagesFor(c.version, list, used))
}

// writeBrief answers with what hezi shows of images: how is the header Hezi-Brief.
func writeBrief(c *call, how string, list []imagetypes.Summary) error {
	if how == "row" {
		return writeList(c, rows(list))
	}
	return writeList(c, briefly(list))
}

func imageCreate(c *call) error {
	q := c.query()
	var platform *ocispec.Platform
	if c.version >= 32 {
		var err error
		if platform, err = platformText(q.Get("platform")); err != nil {
			return err
		}
	}
	switch {
	case q.Get("fromImage") != "":
		return imagePull(c, platform)
	case q.Get("fromSrc") != "":
		r := image.ImportRequest{Source: q.Get("fromSrc"), Body: c.r.Body, Reference: withTag(q.Get("repo"), q.Get("tag")),
			Message: q.Get("message"), Changes: q["changes"], Platform: platform}
		out := c.progress()
		return out.end(c.backend.Images.Import(c.ctx(), r, out.send))
	}
	return errdefs.ErrInvalidArgument.WithMessage("POST /images/create needs fromImage (a pull) or fromSrc (an import)")
}

// imagePull pulls until it is done or the client goes away; the image service
// goes on when another client waits for the same image.
func imagePull(c *call, platform *ocispec.Platform) error {
	auth, err := c.registryAuth()
	if err != nil {
		return err
	}
	r := image.PullRequest{Reference: withTag(c.get("fromImage"), c.get("tag")), Platform: platform, Auth: auth, Headers: metaHeaders(c.r.Header)}
	r.All = c.get("tag") == "" && !hasTag(r.Reference)
	out := c.progress()
	return out.end(c.backend.Images.Pull(c.ctx(), r, out.send))
}

func imageLoad(c *call) error {
	list, err := c.platforms()
	if err != nil {
		return err
	}
	out := c.progress()
	return out.end(c.backend.Images.Load(c.ctx(), c.r.Body, list, c.flagOr("quiet", true), out.send))
}

func imageInspect(c *call) error {
	manifests := c.version >= 48 && c.flag("manifests")
	var platform *ocispec.Platform
	if c.version >= 49 {
		var err error
		if platform, err = platformJSON(c.get("platform")); err != nil {
			return err
		}
	}
	if manifests && platform != nil {
		return errdefs.ErrInvalidArgument.WithMessage("conflicting options: manifests and platform options cannot both be set")
	}
	resp, err := c.backend.Images.Inspect(c.ctx(), c.arg, platform, manifests)
	if err != nil {
		return err
	}
	used, err := lastUsed(c)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, imageFor(c.version, resp, used[resp.ID]))
}

func imageHistory(c *call) error {
	var platform *ocispec.Platform
	if c.version >= 48 {
		var err error
		if platform, err = platformJSON(c.get("platform")); err != nil {
			return err
		}
	}
	resp, err := c.backend.Images.History(c.ctx(), c.arg, platform)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

func imageAttestations(c *call) error {
	q := c.query()
	if len(q["platform"]) > 1 {
		return errdefs.ErrInvalidArgument.WithMessage("only one platform value is currently supported")
	}
	platform, err := platformJSON(q.Get("platform"))
	if err != nil {
		return err
	}
	types := slices.DeleteFunc(q["type"], func(t string) bool { return strings.TrimSpace(t) == "" })
	list, err := c.backend.Images.Attestations(c.ctx(), c.arg, image.AttestationOptions{Platform: platform, Types: types, Statement: c.flag("statement")})
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, list)
}

func imageTag(c *call) error {
	repo := c.get("repo")
	if repo == "" {
		return errdefs.ErrInvalidArgument.WithMessage("refusing to create a tag without a name: say it with ?repo=")
	}
	if err := c.backend.Images.Tag(c.lasting(), c.arg, withTag(repo, c.get("tag"))); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

func imageRemove(c *call) error {
	o := image.RemoveOptions{Force: c.flag("force"), NoPrune: c.flag("noprune")}
	if c.version >= 50 {
		var err error
		if o.Platforms, err = platformList(c.query()["platforms"]); err != nil {
			return err
		}
	}
	resp, err := c.backend.Images.Remove(c.lasting(), c.arg, o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, resp)
}

// registryAuth of a pull. A header that cannot be read is the client's error:
// pulling without the credentials that it meant would fail with a riddle.
func (c *call) registryAuth() (*registry.AuthConfig, error) {
	h := c.r.Header.Get(registry.AuthHeader)
	if h == "" {
		return nil, nil
	}
	auth, err := authconfig.Decode(h)
	if err != nil {
		return nil, invalid(fmt.Sprintf("bad %s header", registry.AuthHeader), err)
	}
	if *auth == (registry.AuthConfig{}) {
		return nil, nil
	}
	return auth, nil
}

// metaHeaders are the X-Meta-* headers, which a pull sends to the registry.
func metaHeaders(h http.Header) map[string][]string {
	out := map[string][]string{}
	for _, key := range slices.Collect(maps.Keys(h)) {
		if len(key) > 7 && http.CanonicalHeaderKey(key)[:7] == "X-Meta-" {
			out[key] = h[key]
		}
	}
	return out
}
