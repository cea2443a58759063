package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
)

// authorizer answers an endpoint's challenges. Without auth it only ever gets
// anonymous tokens.
func (r *Repository) authorizer(ep *endpoint, auth *registry.AuthConfig) docker.Authorizer {
	user, secret := credentials(auth)
	client := r.gen.tokenClient(ep)
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

// tokenClient speaks to an endpoint's token server.
func (g *generation) tokenClient(ep *endpoint) *http.Client {
	return &http.Client{
		Transport: tokenTransport{dialler{g, ep}},
		Timeout:   g.patience,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) >= 3 || !sameOrigin(req.URL, via[0].URL) {
				return fmt.Errorf("%w: a token server may not send credentials on to %s", errRedirect, req.URL.Host)
			}
			return nil
		},
	}
}

// tokenTransport makes errors of answers whose meaning containerd's client
// would lose.
type tokenTransport struct{ http.RoundTripper }

func (t tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	host := req.URL.Scheme + "://" + req.URL.Host
	if resp.StatusCode == http.StatusTooManyRequests {
		return nil, refused(host, resp)
	}
	// A POST that is refused with a page is asked again as a GET.
	if isPage(resp.Header, nil) && (resp.StatusCode < 300 || req.Method == http.MethodGet) {
		return nil, webPage(host, resp)
	}
	return resp, nil
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

// failure classes the error of a request without an answer.
func (r *Repository) failure(ep *endpoint, err error) *Failure {
	var known *Failure
	if errors.As(err, &known) {
		return known
	}
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
	var syntax *json.SyntaxError
	var shape *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &shape) || errors.Is(err, auth.ErrNoToken) {
		return &Failure{Host: ep.base(), Cause: err, class: errdefs.ErrUnavailable, text: fmt.Sprintf(
			"the token server of registry %s answered without a token: %s: it, or something between, is broken", ep.base(), plainCause(err))}
	}
	return r.c.unreachable(ep, r.gen.settings, err)
}
