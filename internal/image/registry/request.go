package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// What a request wants to do with a repository (the actions of a token's
// scope, distribution's token specification).
const (
	actionPull = "pull"
	actionPush = "pull,push"
)

// request is one question to one endpoint.
type request struct {
	method string
	// rest is the path after the repository: "blobs/uploads/".
	rest  string
	query url.Values
	// at replaces rest and query where the registry itself named an address:
	// the Location of an upload. It is resolved against the address asked
	// before (see resolveLocation). Credentials go along only if it leads to
	// the endpoint itself.
	at     *url.URL
	header http.Header
	// body is opened for each attempt, as a 401 or a change of scheme makes
	// it sent again; it gives the length in bytes, -1 if that is unknown. nil
	// sends none. The request closes what it opened.
	body func() (io.ReadCloser, int64, error)
	// path replaces all of the address after the host, for what is in no
	// repository.
	path string
	// actions on the repository that the token must allow; "" is actionPull.
	actions string
	// scopes are further ones: "repository:other:pull" for a mount from there.
	scopes []string
}

// ask sends one request to one host, answering its challenges. The answer is
// 2xx; anything else is a *Failure.
func (r *Repository) ask(ctx context.Context, ep *endpoint, q request) (*http.Response, error) {
	if q.actions == "" {
		q.actions = actionPull
	}
	if q.actions == actionPull && ep.ns != "" {
		q.query = maps.Clone(q.query)
		if q.query == nil {
			q.query = make(url.Values)
		}
		q.query.Set("ns", ep.ns)
	}
	if r.path != "" {
		ctx = docker.WithScope(ctx, "repository:"+r.path+":"+q.actions)
	}
	for _, s := range q.scopes {
		ctx = docker.WithScope(ctx, s)
	}
	var asked []*http.Response
	for {
		resp, err := r.send(ctx, ep, q)
		if err != nil {
			return nil, r.failure(ep, err)
		}
		if resp.StatusCode < 300 {
			return resp, nil
		}
		f := refused(ep.base(), resp)
		if resp.StatusCode != http.StatusUnauthorized || ep.bearer != "" || len(asked) > 2 {
			return nil, f
		}
		asked = append(asked, resp)
		if err := ep.auth.AddResponses(ctx, asked); err != nil {
			return nil, f
		}
	}
}

// send makes one request, over plain HTTP if the host may and only does that.
func (r *Repository) send(ctx context.Context, ep *endpoint, q request) (*http.Response, error) {
	if q.at != nil {
		return r.sendOver(ctx, ep, q.at.Scheme, q)
	}
	if !ep.probe {
		return r.sendOver(ctx, ep, ep.scheme, q)
	}
	known := r.c.schemeOf(ep.host)
	if known != "" {
		resp, err := r.sendOver(ctx, ep, known, q)
		var auth *authError
		if err != nil && !errors.As(err, &auth) {
			r.c.setScheme(ep.host, "")
		}
		return resp, err
	}
	resp, err := r.sendOver(ctx, ep, "https", q)
	if err == nil {
		r.c.setScheme(ep.host, "https")
		return resp, nil
	}
	if ctx.Err() != nil || errors.Is(err, errRedirect) || spokeTLS(err) {
		return nil, err
	}
	resp, plainErr := r.sendOver(ctx, ep, "http", q)
	switch {
	case plainErr == nil:
		r.c.setScheme(ep.host, "http")
		return resp, nil
	case errors.Is(plainErr, errWantsTLS):
		return nil, err
	}
	return nil, plainErr
}

// spokeTLS says whether a host that failed has TLS: then it is not asked
// without.
func spokeTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var auth *authError
	return alertOf(err) != "" || errors.As(err, &verify) || errors.As(err, &auth)
}

// authError is why there is no token for a request.
type authError struct{ error }

func (e *authError) Unwrap() error { return e.error }

// address is where a request goes, and whether that is the endpoint itself.
func (r *Repository) address(ep *endpoint, scheme string, q request) (addr string, own bool) {
	if q.at != nil {
		return q.at.String(), strings.EqualFold(q.at.Host, ep.host) && (ep.probe || q.at.Scheme == ep.scheme)
	}
	addr = scheme + "://" + ep.host
	if q.path != "" {
		addr += q.path
	} else {
		addr += ep.root + "/" + r.path + "/" + q.rest
	}
	if len(q.query) > 0 {
		addr += "?" + q.query.Encode()
	}
	return addr, true
}

// resolveLocation reads the Location of an answer for a further request.
func resolveLocation(resp *http.Response) (*url.URL, error) {
	u, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("the registry sent no usable Location: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("the registry sent a Location that is not followed: %s", u.Redacted())
	}
	if resp.Request.URL.Scheme == "https" && u.Scheme == "http" {
		return nil, fmt.Errorf("%w: from https to %s", errRedirect, u.Redacted())
	}
	return u, nil
}

// sendOver makes one request over scheme. The body of the answer ends if
// nothing arrives for too long, and the whole if the host does not take the
// body that is sent to it.
func (r *Repository) sendOver(ctx context.Context, ep *endpoint, scheme string, q request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, own, err := r.newRequest(ctx, cancel, ep, scheme, q)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	switch {
	case !own:
	case q.header.Get("Authorization") != "":
	case ep.bearer != "":
		req.Header.Set("Authorization", "Bearer "+ep.bearer)
	default:
		if err := ep.auth.Authorize(ctx, req); err != nil {
			if req.Body != nil {
				req.Body.Close()
			}
			cancel(nil)
			return nil, &authError{err}
		}
	}
	silence, hurried := ep.silence(r.gen.settings), ep.hurried()
	timer := stopped(silence, cancel)
	if hurried && req.Body == nil {
		timer.Reset(silence)
	}
	client := &http.Client{Transport: dialler{r.gen, ep}, CheckRedirect: follow}
	resp, err := client.Do(req)
	timer.Stop()
	if err == nil && wantsTLS(resp) {
		err = errWantsTLS
		resp.Body.Close()
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = &silent{silence}
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = guard(ctx, cancel, resp.Body, silence, hurried)
	return resp, nil
}

// newRequest opens the body, if there is one.
func (r *Repository) newRequest(ctx context.Context, cancel context.CancelCauseFunc, ep *endpoint, scheme string, q request) (req *http.Request, own bool, err error) {
	addr, own := r.address(ep, scheme, q)
	req, err = http.NewRequestWithContext(ctx, q.method, addr, nil)
	if err != nil {
		return nil, false, err
	}
	if own {
		for k, v := range ep.headers {
			req.Header[k] = v
		}
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", r.c.agent)
	if q.body == nil {
		return req, own, nil
	}
	open := func() (io.ReadCloser, error) {
		rc, n, err := q.body()
		if err != nil {
			return nil, err
		}
		req.ContentLength = n
		return &taken{rc: rc, patience: r.gen.patience, timer: stopped(r.gen.patience, cancel)}, nil
	}
	if req.Body, err = open(); err != nil {
		return nil, false, err
	}
	if req.ContentLength == 0 {
		req.Body.Close()
		req.Body = http.NoBody
	} else {
		req.GetBody = open // for redirects, and connections that were closed
	}
	return req, own, nil
}

// follow lets redirects be followed, without credentials to another origin. A
// tag is not looked up over plain HTTP if the registry was asked with TLS;
// blobs may be, their digest is known.
func follow(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) >= 10 {
		return fmt.Errorf("%w: more than 10 redirects", errRedirect)
	}
	if req.URL.Scheme != "https" && first.Scheme == "https" && !strings.Contains(first.Path, "/blobs/") {
		return fmt.Errorf("%w: from https to %s", errRedirect, req.URL.Redacted())
	}
	if sameOrigin(req.URL, first) {
		return nil
	}
	for k := range req.Header {
		switch k {
		case "Accept", "Range", "User-Agent", "Content-Type", "Content-Range":
		default:
			req.Header.Del(k)
		}
	}
	return nil
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}
