package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pusher puts content into one repository. It speaks to the registry itself,
// or to the one host that its hosts.toml says takes pushes.
type Pusher struct {
	r  *Repository
	ep *endpoint

	mu    sync.Mutex // guards all below
	known map[digest.Digest]struct{}
	limit int64 // most bytes of one request; 0: any
	whole bool  // blobs are taken in one request only
}

// Pusher prepares to push. It does not ask yet.
func (r *Repository) Pusher() (*Pusher, error) {
	ep, err := r.pusher()
	if err != nil {
		return nil, err
	}
	return &Pusher{r: r, ep: ep, known: map[digest.Digest]struct{}{}}, nil
}

// Host is where it pushes to.
func (p *Pusher) Host() string { return p.ep.base() }

// ask is Repository.ask with what a push may do.
func (p *Pusher) ask(ctx context.Context, q request) (*http.Response, error) {
	q.actions = actionPush
	return p.r.ask(ctx, p.ep, q)
}

// Has says whether the repository has a blob.
func (p *Pusher) Has(ctx context.Context, d digest.Digest) (bool, error) {
	p.mu.Lock()
	_, known := p.known[d]
	p.mu.Unlock()
	if known {
		return true, nil
	}
	ok, err := p.head(ctx, "blobs/"+d.String())
	if ok {
		p.learn(d)
	}
	return ok, err
}

// HasManifest says whether the repository has a manifest or an index.
func (p *Pusher) HasManifest(ctx context.Context, d digest.Digest) (bool, error) {
	return p.head(ctx, "manifests/"+d.String())
}

func (p *Pusher) learn(d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[d] = struct{}{}
}

func (p *Pusher) head(ctx context.Context, rest string) (found bool, err error) {
	h := http.Header{"Accept": {"*/*"}}
	if strings.HasPrefix(rest, "manifests/") {
		h = accept()
	}
	err = p.r.persist(ctx, func() error {
		resp, err := p.ask(ctx, request{method: http.MethodHead, rest: rest, header: h})
		var f *Failure
		switch {
		case err == nil:
			resp.Body.Close()
			found = true
			return nil
		case errors.As(err, &f) && (f.Status == http.StatusNotFound || f.Status == http.StatusMethodNotAllowed):
			return nil // the second one may still take it
		}
		return err
	})
	if err != nil {
		return false, p.explain(err)
	}
	return found, nil
}

// Manifest stores a manifest or an index under its digest and, unless it is
// "", under a tag.
func (p *Pusher) Manifest(ctx context.Context, d ocispec.Descriptor, body []byte, tag string) error {
	object := tag
	if object == "" {
		object = d.Digest.String()
	}
	var got digest.Digest
	put := func() error {
		resp, err := p.ask(ctx, request{
			method: http.MethodPut, rest: "manifests/" + object, header: http.Header{"Content-Type": {d.MediaType}},
			body: func() (io.ReadCloser, int64, error) {
				return io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
			},
		})
		if err != nil {
			return err
		}
		resp.Body.Close()
		got = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		return nil
	}
	err := p.r.persist(ctx, put)
	// A registry on a plain file system finds a link empty that another push of the
	// same blob writes again at that moment.
	for n := time.Duration(1); n < 4 && invalidDigest(err); n++ {
		if err := pause(ctx, n*firstPause); err != nil {
			return err
		}
		err = p.r.persist(ctx, put)
	}
	if err != nil {
		return p.explainManifest(d, err)
	}
	if got.Validate() == nil && got.Algorithm() == d.Digest.Algorithm() && got != d.Digest {
		return errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("registry %s stored %s as something else: it says its digest is %s: the registry or something between is broken", p.ep.base(), d.Digest, got))
	}
	return nil
}

func invalidDigest(err error) bool {
	var f *Failure
	return errors.As(err, &f) && f.Code == "DIGEST_INVALID"
}

// Mount has the registry take a blob from another of its repositories, by
// path. If it does not, session is an upload that it began instead; it may be
// nil.
func (p *Pusher) mount(ctx context.Context, d digest.Digest, from string) (mounted bool, session *upload, err error) {
	resp, err := p.ask(ctx, request{
		method: http.MethodPost, rest: "blobs/uploads/", query: url.Values{"mount": {d.String()}, "from": {from}},
		scopes: []string{"repository:" + from + ":" + actionPull},
	})
	if err != nil {
		return false, nil, err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		p.learn(d)
		return true, nil, nil
	}
	session, err = p.session(resp)
	return false, session, err
}

// Mount brings a blob from the first of other repositories that has it, and
// says from which; "" if none.
func (p *Pusher) Mount(ctx context.Context, d digest.Digest, sources []string) (string, error) {
	from, session, err := p.mountAny(ctx, d, sources)
	p.drop(ctx, session)
	return from, err
}

// maxSources bounds how many repositories are tried for one blob.
const maxSources = 3

func (p *Pusher) mountAny(ctx context.Context, d digest.Digest, sources []string) (from string, session *upload, err error) {
	for _, from := range sources[:min(len(sources), maxSources)] {
		if from == p.r.path {
			continue
		}
		mounted, s, err := p.mount(ctx, d, from)
		if ctx.Err() != nil {
			return "", nil, context.Cause(ctx)
		}
		if err != nil { // another repository's refusal is no reason not to upload
			p.r.c.log.Debug("a blob cannot be mounted", "from", from, "blob", d, "error", err)
			continue
		}
		p.drop(ctx, session)
		session = s
		if mounted {
			return from, nil, nil
		}
	}
	return "", session, nil
}

// explain tells why the repository cannot be pushed to.
func (p *Pusher) explain(err error) error {
	var f *Failure
	if !errors.As(err, &f) {
		return err
	}
	name := reference.FamiliarName(p.r.name)
	say := func(class error, format string, args ...any) error {
		return &explained{class: class, cause: f, text: fmt.Sprintf(format, args...)}
	}
	switch {
	case f.Status == 0:
		return p.r.unreached(f, err)
	case f.page:
		return say(errdefs.ErrUnavailable, "%s could not be pushed: %s", name, f.words())
	case f.Code == "UNSUPPORTED", f.Status == http.StatusMethodNotAllowed:
		return say(errdefs.ErrFailedPrecondition, "%s: registry %s does not take pushes (it is read-only, or only a cache of another registry): push to another one", f.words(), f.Host)
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden, f.Code == "DENIED", f.Code == "UNAUTHORIZED":
		return say(errdefs.ErrPermissionDenied, "push access denied for %s, repository does not exist or may require 'docker login': %s: %s", name, f.words(), p.accessHint())
	case f.Status == http.StatusRequestEntityTooLarge:
		return say(errdefs.ErrResourceExhausted, "a layer of %s is too large for %s: it answers 413 Request Entity Too Large, also to parts of %d MiB: raise the limit of the proxy before the registry (nginx: client_max_body_size 0)",
			name, f.Host, minChunk>>20)
	case f.Code == "DIGEST_INVALID":
		return say(errdefs.ErrDataLoss, "%s: what arrived at registry %s is not what was sent: something between is broken, or the layer is damaged on disk: pull or load the image again", f.words(), f.Host)
	case f.Code == "BLOB_UPLOAD_UNKNOWN":
		return say(errdefs.ErrUnavailable, "%s: registry %s forgot an upload that it had begun: if several of them stand behind one address, they need the same storage and the same http.secret", f.words(), f.Host)
	case f.Code == "NAME_UNKNOWN", f.Status == http.StatusNotFound:
		return say(errdefs.ErrNotFound, "%s: registry %s has no repository %s and does not make one by itself: create it there first", f.words(), f.Host, p.r.path)
	case f.Status == http.StatusTooManyRequests:
		return say(errdefs.ErrResourceExhausted, "%s: %s limits how often it may be asked: wait some minutes, or log in (docker login)", f.words(), f.Host)
	case f.Status == http.StatusInsufficientStorage:
		return say(errdefs.ErrResourceExhausted, "registry %s has no space left for %s: %s", f.Host, name, f.words())
	case f.Status >= 500:
		return say(errdefs.ErrUnavailable, "received unexpected HTTP status: %d %s from %s: %s could not be pushed; the registry itself fails: try again later", f.Status, http.StatusText(f.Status), f.Host, name)
	}
	return say(f.class, "%s: push %s: %s", f.Host, name, f.words())
}

// accessHint says what to do about a push that was refused.
func (p *Pusher) accessHint() string {
	domain, path := reference.Domain(p.r.name), reference.Path(p.r.name)
	switch {
	case domain == hubName && strings.HasPrefix(path, "library/"):
		short := strings.TrimPrefix(path, "library/")
		return fmt.Sprintf("on Docker Hub an image is named after its owner: tag it (tag %s USER/%s), then push that", short, short)
	case !p.ep.trusted:
		if domain == hubName {
			domain = ""
		}
		return strings.TrimSpace("log in first: hezi login "+domain) + ", or docker login"
	}
	return "the account that you are logged in with may not push there: check the name, and its rights"
}

// explainManifest tells why a manifest was refused.
func (p *Pusher) explainManifest(d ocispec.Descriptor, err error) error {
	var f *Failure
	if !errors.As(err, &f) || f.Status == 0 || f.page {
		return p.explain(err)
	}
	name := reference.FamiliarName(p.r.name)
	switch f.Code {
	case "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN":
		return &explained{class: errdefs.ErrNotFound, cause: f, text: fmt.Sprintf(
			"%s: registry %s lacks a part of %s that manifest %s names: push that part first", f.words(), f.Host, name, d.Digest)}
	case "MANIFEST_INVALID", "TAG_INVALID", "MANIFEST_UNVERIFIED":
		return &explained{class: errdefs.ErrInvalidArgument, cause: f, text: fmt.Sprintf(
			"%s: registry %s does not take manifest %s of %s (%s)", f.words(), f.Host, d.Digest, name, d.MediaType)}
	}
	if f.Status == http.StatusRequestEntityTooLarge {
		return &explained{class: errdefs.ErrInvalidArgument, cause: f, text: fmt.Sprintf(
			"registry %s does not take manifest %s of %s: it is too large: %d bytes", f.Host, d.Digest, name, d.Size)}
	}
	return p.explain(err)
}
