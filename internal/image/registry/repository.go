package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hezi/internal/image/schema1"
)

const (
	maxManifest = 4 << 20 // OCI distribution spec 1.1: registries take 4 MiB
	maxTags     = 100_000
)

// accept lists the manifests that can be understood.
func accept() http.Header {
	return http.Header{"Accept": {strings.Join([]string{
		images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2ManifestList,
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, "*/*",
	}, ", ")}}
}

// Resolve finds out what a tag or digest names now. It costs no pull in the
// sense of registries' rate limits, where the registry answers HEAD.
func (r *Repository) Resolve(ctx context.Context, ref reference.Named) (ocispec.Descriptor, error) {
	object, want := objectOf(ref)
	need := canResolve
	if want != "" {
		need = canPull
	}
	var d ocispec.Descriptor
	err := r.persist(ctx, func() error {
		return r.each(ctx, need, func(ep *endpoint) (err error) {
			d, err = r.head(ctx, ep, object, want)
			return err
		})
	})
	if err != nil {
		return ocispec.Descriptor{}, r.explain(ref, err)
	}
	return d, nil
}

func objectOf(ref reference.Named) (object string, want digest.Digest) {
	if d, ok := ref.(reference.Digested); ok {
		return d.Digest().String(), d.Digest()
	}
	if t, ok := ref.(reference.Tagged); ok {
		return t.Tag(), ""
	}
	return "latest", ""
}

func (r *Repository) head(ctx context.Context, ep *endpoint, object string, want digest.Digest) (ocispec.Descriptor, error) {
	resp, err := r.ask(ctx, ep, request{method: http.MethodHead, rest: "manifests/" + object, header: accept()})
	if err == nil {
		resp.Body.Close()
		got := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		if got.Validate() == nil && !isPage(resp.Header, nil) && resp.ContentLength > 0 && (want == "" || got == want) {
			return ocispec.Descriptor{MediaType: mediaType(resp.Header), Digest: got, Size: resp.ContentLength}, nil
		}
	}
	var f *Failure
	if errors.As(err, &f) && (f.Status == 0 || f.Status == http.StatusTooManyRequests) {
		return ocispec.Descriptor{}, err
	}
	// An error to HEAD has no words, and some registries do not know HEAD.
	body, kind, err := r.get(ctx, ep, object, want)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if want == "" {
		want = digest.FromBytes(schema1.Payload(body))
	}
	return ocispec.Descriptor{MediaType: kind, Digest: want, Size: int64(len(body))}, nil
}

// get fetches a manifest and verifies it, if its digest is known.
func (r *Repository) get(ctx context.Context, ep *endpoint, object string, want digest.Digest) ([]byte, string, error) {
	// Manifests are small: one that trickles for ever is a fault.
	ctx, cancel := context.WithTimeout(ctx, 10*ep.silence(r.gen.settings))
	defer cancel()
	resp, err := r.ask(ctx, ep, request{method: http.MethodGet, rest: "manifests/" + object, header: accept()})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err == nil && len(body) > maxManifest {
		return nil, "", &Failure{Host: ep.base(), class: errdefs.ErrInvalidArgument, lied: true,
			text: fmt.Sprintf("registry %s sent more than %d MiB where a manifest was asked for: this is no manifest; push the image again", ep.base(), maxManifest>>20)}
	}
	if err != nil {
		return nil, "", r.c.unreachable(ep, r.gen.settings, err)
	}
	if isPage(resp.Header, body) {
		return nil, "", pageFailure(ep.base(), body)
	}
	if isText(resp.Header, body) {
		return nil, "", textFailure(ep.base(), body)
	}
	if want != "" {
		if got := want.Algorithm().FromBytes(body); got != want && want.Algorithm().FromBytes(schema1.Payload(body)) != want {
			return nil, "", wrongDigest(ep, "manifest", want, got)
		}
	}
	return body, mediaType(resp.Header), nil
}

func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

func wrongDigest(ep *endpoint, what string, want, got digest.Digest) *Failure {
	return &Failure{
		Host: ep.base(), lied: true, class: errdefs.ErrDataLoss,
		text: fmt.Sprintf("registry %s sent a wrong %s: expected digest %s, got %s: the registry or something between is broken; nothing of it was kept", ep.base(), what, want, got),
	}
}

// Manifest fetches a manifest or index whose digest is known.
func (r *Repository) Manifest(ctx context.Context, d ocispec.Descriptor) (body []byte, kind string, err error) {
	err = r.persist(ctx, func() error {
		return r.each(ctx, canPull, func(ep *endpoint) (err error) {
			body, kind, err = r.get(ctx, ep, d.Digest.String(), d.Digest)
			return err
		})
	})
	if err != nil {
		ref, derr := reference.WithDigest(r.name, d.Digest)
		if derr != nil {
			return nil, "", err
		}
		return nil, "", r.explain(ref, err)
	}
	return body, kind, nil
}

// Tags lists every tag of the repository.
func (r *Repository) Tags(ctx context.Context) (tags []string, err error) {
	err = r.persist(ctx, func() error {
		return r.each(ctx, canResolve, func(ep *endpoint) (err error) {
			tags, err = r.tagsOf(ctx, ep)
			return err
		})
	})
	if err != nil {
		return nil, r.explain(r.name, err)
	}
	return tags, nil
}

func (r *Repository) tagsOf(ctx context.Context, ep *endpoint) ([]string, error) {
	var tags []string
	for next := (url.Values{"n": {"1000"}}); next != nil; {
		resp, err := r.ask(ctx, ep, request{method: http.MethodGet, rest: "tags/list", query: next, header: http.Header{"Accept": {"application/json"}}})
		if err != nil {
			return nil, err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return nil, &Failure{Host: ep.base(), Cause: fmt.Errorf("list of tags: %w", err), class: errdefs.ErrUnavailable}
		}
		tags = append(tags, page.Tags...)
		if len(tags) > maxTags {
			return nil, &Failure{Host: ep.base(), Cause: fmt.Errorf("more than %d tags", maxTags), class: errdefs.ErrOutOfRange, lied: true}
		}
		following := nextPage(resp.Header)
		if following.Encode() == next.Encode() || len(page.Tags) == 0 {
			break
		}
		next = following
	}
	return tags, nil
}

// nextPage reads Link: <…?last=x&n=1000>; rel="next". Only its query is used:
// the list stays with the host that was asked.
func nextPage(h http.Header) url.Values {
	link := h.Get("Link")
	from, rest, ok := strings.Cut(link, ">")
	if !ok || !strings.Contains(rest, "next") {
		return nil
	}
	u, err := url.Parse(strings.TrimPrefix(strings.TrimSpace(from), "<"))
	if err != nil || u.RawQuery == "" {
		return nil
	}
	return u.Query()
}

// BlobSize asks how many bytes a blob has. Descriptors say that; only images of
// schema 1 have none.
func (r *Repository) BlobSize(ctx context.Context, d digest.Digest) (size int64, err error) {
	err = r.persist(ctx, func() error {
		return r.each(ctx, canPull, func(ep *endpoint) (err error) {
			size, err = r.sizeAt(ctx, ep, d)
			return err
		})
	})
	if err != nil {
		return 0, r.explainBlob(ocispec.Descriptor{Digest: d}, err)
	}
	return size, nil
}

func (r *Repository) sizeAt(ctx context.Context, ep *endpoint, d digest.Digest) (int64, error) {
	q := request{method: http.MethodHead, rest: "blobs/" + d.String(), header: http.Header{"Accept": {"*/*"}}}
	resp, err := r.ask(ctx, ep, q)
	var f *Failure
	if errors.As(err, &f) && f.Status == 0 {
		return 0, err
	}
	if err != nil || resp.ContentLength < 0 { // a host that takes only GET
		if err == nil {
			resp.Body.Close()
		}
		q.method = http.MethodGet
		if resp, err = r.ask(ctx, ep, q); err != nil {
			return 0, err
		}
	}
	resp.Body.Close()
	if isPage(resp.Header, nil) || resp.ContentLength < 0 {
		return 0, &Failure{Host: ep.base(), lied: true, class: errdefs.ErrUnavailable, text: fmt.Sprintf("registry %s does not say how large blob %s is", ep.base(), d)}
	}
	return resp.ContentLength, nil
}

// Blob is a blob on its way.
type Blob struct {
	io.ReadCloser
	Host   string
	Offset int64 // of the first byte: as asked, or 0 if the host cannot do that
	ep     *endpoint
	repo   *Repository
	ranges bool // the host serves parts
}

// Blob opens a blob at offset. It asks each host once; trying again is the
// caller's, who knows how far it got (see Again).
func (r *Repository) Blob(ctx context.Context, d ocispec.Descriptor, offset int64) (*Blob, error) {
	var b *Blob
	err := r.each(ctx, canPull, func(ep *endpoint) (err error) {
		b, err = r.open(ctx, ep, d, offset)
		return err
	})
	if errdefs.IsNotFound(err) && len(d.URLs) > 0 && images.IsNonDistributable(d.MediaType) {
		foreign, tried := r.foreign(ctx, d, offset)
		if foreign != nil {
			return foreign, nil
		}
		return nil, r.explainForeign(d, err, tried)
	}
	if err != nil {
		return nil, r.explainBlob(d, err)
	}
	return b, nil
}

func (r *Repository) open(ctx context.Context, ep *endpoint, d ocispec.Descriptor, offset int64) (*Blob, error) {
	h := http.Header{"Accept": {"*/*"}}
	if offset > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.ask(ctx, ep, request{method: http.MethodGet, rest: "blobs/" + d.Digest.String(), header: h})
	var f *Failure
	if offset > 0 && errors.As(err, &f) && f.Status == http.StatusRequestedRangeNotSatisfiable {
		return r.open(ctx, ep, d, 0)
	}
	if err != nil {
		return nil, err
	}
	return r.opened(ep, d, offset, resp)
}

// opened checks that an answer is the part that was asked for.
func (r *Repository) opened(ep *endpoint, d ocispec.Descriptor, offset int64, resp *http.Response) (*Blob, error) {
	b := &Blob{ReadCloser: resp.Body, Host: ep.base(), ep: ep, repo: r}
	if isPage(resp.Header, nil) && resp.ContentLength != d.Size-offset {
		return nil, webPage(ep.base(), resp)
	}
	b.ranges = resp.StatusCode == http.StatusPartialContent || resp.Header.Get("Accept-Ranges") == "bytes"
	if resp.StatusCode == http.StatusPartialContent {
		first, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil || n != offset {
			resp.Body.Close()
			return nil, &Failure{Host: ep.base(), lied: true, class: errdefs.ErrDataLoss,
				text: fmt.Sprintf("registry %s sent another part of blob %s than it was asked for", ep.base(), d.Digest)}
		}
		b.Offset = offset
	}
	if resp.ContentLength >= 0 && b.Offset+resp.ContentLength != d.Size {
		resp.Body.Close()
		return nil, &Failure{Host: ep.base(), lied: true, class: errdefs.ErrDataLoss,
			text: fmt.Sprintf("registry %s sent a wrong blob %s: expected %d bytes, got %d", ep.base(), d.Digest, d.Size, b.Offset+resp.ContentLength)}
	}
	return b, nil
}

// foreign opens a layer that its image says is elsewhere. No credentials go
// there. If none of the addresses serves, tried says why.
func (r *Repository) foreign(ctx context.Context, d ocispec.Descriptor, offset int64) (_ *Blob, tried []string) {
	for _, s := range d.URLs {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			tried = append(tried, fmt.Sprintf("%q is no http or https address", s))
			continue
		}
		failed := func(why any) { tried = append(tried, fmt.Sprintf("%s: %v", u.Redacted(), why)) }
		ep := &endpoint{c: r.c, scheme: u.Scheme, host: u.Host, mirror: true, can: canPull}
		ep.auth = r.authorizer(ep, nil)
		h := http.Header{"Accept": {"*/*"}}
		if offset > 0 {
			h.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		}
		resp, err := r.sendOver(ctx, ep, u.Scheme, request{method: http.MethodGet, at: u, header: h})
		if err != nil {
			failed(plainCause(err))
			continue
		}
		if resp.StatusCode >= 300 {
			resp.Body.Close()
			failed(resp.Status)
			continue
		}
		b, err := r.opened(ep, d, offset, resp)
		if err != nil {
			failed(err)
			continue
		}
		b.ranges = false // ep is not where its parts are
		r.once(d.Digest.String(), "Layer "+d.Digest.Encoded()[:12]+" comes from "+u.Host)
		return b, nil
	}
	return nil, tried
}

// Cut makes an error of a body that ended early; a mirror that does that is
// passed over.
func (r *Repository) Cut(b *Blob, err error) error {
	f := r.c.unreachable(b.ep, r.gen.settings, err)
	if !f.quiet && !errors.Is(err, errSlow) {
		f.text = fmt.Sprintf("registry %s broke off while it sent a blob: %s", b.Host, plainCause(err))
	}
	if b.ep.mirror {
		r.passOver(b.ep, f, true)
	}
	return f
}

// Wrong makes an error of a blob whose digest or size is not what it should
// be. This pull does not ask that host again; retry says whether others are
// left.
func (r *Repository) Wrong(b *Blob, want ocispec.Descriptor, got digest.Digest) (err error, retry bool) { //nolint:revive // the error is the answer, not its failure
	f := wrongDigest(b.ep, "blob", want.Digest, got)
	if b.ep.mirror {
		r.passOver(b.ep, f, true)
	}
	r.mu.Lock()
	r.bad[b.ep] = f
	r.mu.Unlock()
	return f, len(r.order(canPull)) > 0
}

// persist tries again what may succeed a little later. A host that was silent
// for all our patience is not asked again: the user has waited enough.
func (r *Repository) persist(ctx context.Context, do func() error) error {
	for n := 1; ; n++ {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		var f *Failure
		if errors.As(err, &f) && f.quiet {
			return err
		}
		wait, ok := r.Again(err, n)
		if !ok {
			return err
		}
		r.c.log.Info("registry asked again", "repository", r.name.Name(), "after", wait.Round(time.Millisecond), "error", err)
		if f != nil && wait >= time.Second {
			r.tell(fmt.Sprintf("%s: asked again in %s", f.short(), wait.Round(time.Second)))
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}
