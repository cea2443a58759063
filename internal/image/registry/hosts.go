package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
)

// endpoint is one host that may have a repository.
type endpoint struct {
	c                    *Client
	scheme, host, prefix string
	mirror               bool
	probe                bool // it may speak plain HTTP
	auth                 docker.Authorizer
	bearer               string // a token the user gave; only for the registry itself
	headers              http.Header
}

// base names the host in messages and in the list of failing mirrors.
func (e *endpoint) base() string {
	if !e.probe {
		return e.scheme + "://" + e.host + e.prefix
	}
	if known := e.c.schemeOf(e.host); known != "" {
		return known + "://" + e.host
	}
	return e.host
}

// RepositoryOptions say who asks.
type RepositoryOptions struct {
	Auth *registry.AuthConfig // nil: nobody
	// Headers of the client's that begin with X-Meta- go to the registry.
	Headers map[string][]string
	// Tell receives lines about mirrors, for the user; may be nil.
	Tell func(line string)
}

// Repository is one repository as one pull sees it.
type Repository struct {
	c    *Client
	gen  *generation
	name reference.Named
	path string
	tell func(string)
	all  []*endpoint // in the order of the configuration, the registry last

	mu   sync.Mutex // guards all below
	bad  map[*endpoint]error
	told map[string]struct{}
}

// Repository prepares to ask for a repository. It does not ask yet.
func (c *Client) Repository(name reference.Named, o RepositoryOptions) *Repository {
	r := &Repository{
		c: c, gen: c.current(), name: reference.TrimNamed(name), path: reference.Path(name), tell: o.Tell,
		bad: make(map[*endpoint]error), told: make(map[string]struct{}),
	}
	if r.tell == nil {
		r.tell = func(string) {}
	}
	domain := reference.Domain(name)
	if domain == "docker.io" {
		for _, m := range r.gen.mirrors {
			ep := &endpoint{c: c, scheme: m.Scheme, host: m.Host, prefix: m.Path, mirror: true}
			ep.auth = r.authorizer(ep, nil)
			r.all = append(r.all, ep)
		}
		domain = r.gen.hub
	}
	origin := &endpoint{c: c, scheme: "https", host: domain, probe: r.gen.insecure(domain), headers: make(http.Header)}
	origin.auth = r.authorizer(origin, o.Auth)
	if o.Auth != nil {
		origin.bearer = o.Auth.RegistryToken
	}
	for k, v := range o.Headers {
		if k = http.CanonicalHeaderKey(k); strings.HasPrefix(k, "X-Meta-") {
			origin.headers[k] = v
		}
	}
	r.all = append(r.all, origin)
	return r
}

// authorizer answers an endpoint's challenges. Without auth it only ever gets
// anonymous tokens.
func (r *Repository) authorizer(ep *endpoint, auth *registry.AuthConfig) docker.Authorizer {
	user, secret := credentials(auth)
	client := &http.Client{
		Transport: dialler{r.gen},
		Timeout:   r.gen.patience,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) >= 3 || !sameOrigin(req.URL, via[0].URL) {
				return fmt.Errorf("%w: a token server may not send credentials on to %s", errRedirect, req.URL.Host)
			}
			return nil
		},
	}
	return &authorizer{fresh: func() docker.Authorizer {
		return docker.NewDockerAuthorizer(
			docker.WithAuthClient(client),
			docker.WithAuthHeader(http.Header{"User-Agent": {r.c.agent}}),
			docker.WithAuthCreds(func(host string) (string, string, error) {
				if host != ep.host {
					return "", "", nil
				}
				return user, secret, nil
			}),
		)
	}}
}

// authorizer starts afresh after a failure: containerd's keeps the error of a
// token server for ever.
type authorizer struct {
	fresh func() docker.Authorizer
	mu    sync.Mutex // guards now
	now   docker.Authorizer
}

func (a *authorizer) current() docker.Authorizer {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now == nil {
		a.now = a.fresh()
	}
	return a.now
}

func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	now := a.current()
	err := now.Authorize(ctx, req)
	if err != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.now == now {
			a.now = nil
		}
	}
	return err
}

func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	return a.current().AddResponses(ctx, responses)
}

// credentials reads what a client sends: user and password, also as the one
// field auth, or an identity token, which goes without a user.
func credentials(a *registry.AuthConfig) (user, secret string) {
	switch {
	case a == nil:
		return "", ""
	case a.IdentityToken != "":
		return "", a.IdentityToken
	case a.Username == "" && a.Auth != "":
		if b, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			user, secret, _ = strings.Cut(string(b), ":")
			return user, strings.TrimRight(secret, "\x00")
		}
	}
	return a.Username, a.Password
}

// dialler leads each request to its host with that host's certificates.
type dialler struct{ gen *generation }

func (d dialler) RoundTrip(req *http.Request) (*http.Response, error) {
	// A redirect, or a token server, may lead elsewhere: that host's
	// certificates count.
	t, err := d.gen.transport(req.URL.Host, d.gen.insecure(req.URL.Host))
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(req)
}

// order is whom to ask: see the package's comment.
func (r *Repository) order() []*endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first, last []*endpoint
	for _, ep := range r.all {
		switch {
		case r.bad[ep] != nil:
		case ep.mirror && r.c.isDemoted(ep.base()):
			last = append(last, ep)
		default:
			first = append(first, ep)
		}
	}
	return append(first, last...)
}

// each asks the hosts one after another until one has what is wanted.
func (r *Repository) each(ctx context.Context, ask func(ep *endpoint) error) error {
	var origin, mirror error
	var also []string
	for _, ep := range r.order() {
		err := ask(ep)
		if err == nil {
			if ep.mirror {
				r.once(ep.base(), "Mirror "+ep.base()+" serves this image")
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var f *Failure
		failing := errors.As(err, &f) && f.failing()
		if f != nil && f.lied {
			r.mu.Lock()
			r.bad[ep] = err
			r.mu.Unlock()
		}
		if ep.mirror {
			r.passOver(ep, err, failing)
			mirror = err
			if failing {
				also = append(also, ep.base()+" ("+err.Error()+")")
			}
			continue
		}
		origin = err
		if !failing {
			break
		}
	}
	if origin == nil {
		r.mu.Lock()
		origin = r.bad[r.all[len(r.all)-1]]
		r.mu.Unlock()
	}
	if origin == nil {
		return mirror
	}
	var f *Failure
	if errors.As(origin, &f) && f.failing() && len(also) > 0 {
		told := *f
		told.also = "; mirrors failed, too: " + strings.Join(also, ", ")
		return &told
	}
	return origin
}

func (r *Repository) passOver(ep *endpoint, err error, failing bool) {
	if failing {
		r.c.demote(ep.base())
	}
	if errdefs.IsNotFound(err) {
		r.c.log.Debug("registry mirror does not have it", "mirror", ep.base(), "repository", r.name.Name(), "error", err)
		return
	}
	r.c.log.Warn("registry mirror passed over", "mirror", ep.base(), "repository", r.name.Name(), "error", err)
	r.once(ep.base()+" failed", "Mirror "+ep.base()+" is passed over: "+err.Error())
}

// once tells the user a line, unless this pull told one of that key before.
func (r *Repository) once(key, line string) {
	r.mu.Lock()
	_, said := r.told[key]
	r.told[key] = struct{}{}
	r.mu.Unlock()
	if !said {
		r.tell(line)
	}
}

// failure classes the error of a request without an answer.
func (r *Repository) failure(ep *endpoint, err error) *Failure {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) { // the token server refused
		host := ep.base()
		if u, perr := url.Parse(status.RequestURL); perr == nil {
			host = u.Scheme + "://" + u.Host
		}
		return refused(host, &http.Response{StatusCode: status.StatusCode, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(status.Body)))})
	}
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return &Failure{Host: ep.base(), Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Message: "authentication required", class: errdefs.ErrUnauthenticated, Cause: err}
	}
	return r.c.unreachable(ep, r.gen.settings, err)
}
